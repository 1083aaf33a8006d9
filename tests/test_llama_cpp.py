"""``Llama`` against llama-cpp-python itself, on the same file: the same dicts, the same ids; and what is not here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import absent
from llamacpp import PYTHON

import pellucid
from pellucid import Llama, LlamaGrammar
from pellucid.base import elsewhere, notice
from pellucid.base.errors import ContextLengthError, RequestError
from pellucid.llama_cpp import asked
from pellucid.native.build import compiler

PROMPT = "The capital of France is"
MESSAGES = [{"role": "user", "content": "Say hello."}]
# Evaluated here with our Llama, and there with theirs; equal where "ids" are asked for, of the same shape else.
CALLS = (
    "llm('The capital of France is', max_tokens=2, temperature=0)",
    "llm('The capital of France is', max_tokens=2, temperature=0, echo=True)",
    "llm('The capital of France is', max_tokens=2, temperature=0, stop=['Par'])",
    "llm.create_completion('The capital of France is', max_tokens=2, temperature=0, seed=3, top_k=1)",
    "list(llm('The capital of France is', max_tokens=3, temperature=0, stream=True))",
    "llm.create_chat_completion(messages=messages, max_tokens=2, temperature=0)",
    "llm.create_chat_completion(messages, max_tokens=2, response_format={'type': 'json_object'})",
    "list(llm.create_chat_completion(messages=messages, max_tokens=3, temperature=0, stream=True))",
)
EQUAL = (
    "llm.tokenize(b'Hello, world!')",
    "llm.tokenize(b'Hello <|im_end|>', special=True)",
    "llm.tokenize(b'Hello <|im_end|>')",
    "llm.detokenize(llm.tokenize(b'Hello, world!')).decode()",
    "llm.n_ctx()",
    "llm.n_vocab()",
    "llm.n_embd()",
    "llm.token_bos(), llm.token_eos()",
    "llm('The capital of France is', max_tokens=1, temperature=0)['choices'][0]['text']",
    "llm('The capital of France is', max_tokens=3, temperature=0)['usage']",
    "llm('The capital of France is', max_tokens=3, temperature=0)['choices'][0]['finish_reason']",
    "llm.create_chat_completion(messages, max_tokens=1, temperature=0)['usage']",
)
THEIRS = """
import json, sys, llama_cpp
asked = json.load(sys.stdin)
log = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(log, None)
raw = llama_cpp.llama_cpp
settings = raw.llama_model_default_params
def params():
    made = settings()
    made.use_extra_bufts = False  # its repacked weights end in a segmentation fault on processors with AMX
    return made
raw.llama_model_default_params = params
llm = llama_cpp.Llama(model_path=asked["path"], n_ctx=512, n_threads=2, verbose=False)
messages = asked["messages"]
json.dump([eval(call) for call in asked["calls"]], sys.stdout)
"""


@pytest.fixture(scope="module")
def llm(smollm2: Path) -> Iterator[Any]:
    with Llama(model_path=str(smollm2), n_ctx=512, n_threads=1, verbose=False) as llm:
        yield llm


@pytest.fixture(scope="module")
def theirs(smollm2: Path) -> dict[str, Any]:
    """What llama-cpp-python answers to each call."""
    if not PYTHON.is_file():
        pytest.skip(f"no llama.cpp at {PYTHON}; `make bench-peers` builds it")
    given = {"path": str(smollm2), "messages": MESSAGES, "calls": [*CALLS, *EQUAL]}
    done = subprocess.run([PYTHON, "-c", THEIRS], input=json.dumps(given), capture_output=True, text=True, timeout=300)
    if done.returncode < 0:
        pytest.skip(f"llama.cpp ended with signal {-done.returncode} on this machine")
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(given["calls"], json.loads(done.stdout), strict=True))


def shape(value: Any) -> Any:
    """A value's keys and kinds, without what differs from run to run."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    if isinstance(value, list):
        return [shape(one) for one in value[:2]]
    return value if value in ("text_completion", "chat.completion", "chat.completion.chunk") else type(value).__name__


@pytest.mark.habits("llama-cpp", "{}", "works", table="tests/test_llama_cpp.py:CALLS")
@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_an_answer_has_the_shape_of_theirs(llm: Any, theirs: dict[str, Any], call: str) -> None:
    made = json.loads(json.dumps(eval(call, {"llm": llm, "messages": MESSAGES})))
    assert shape(made) == shape(theirs[call])


@pytest.mark.habits("llama-cpp", "{}", "works", table="tests/test_llama_cpp.py:EQUAL")
@pytest.mark.slow
@pytest.mark.parametrize("call", EQUAL)
def test_an_answer_is_theirs(llm: Any, theirs: dict[str, Any], call: str) -> None:
    assert json.loads(json.dumps(eval(call, {"llm": llm, "messages": MESSAGES}))) == theirs[call]


@pytest.mark.habit("llama-cpp", "Llama.from_pretrained(repo_id=…, filename='*q8_0.gguf')", "works")
def test_a_file_of_a_repository_is_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(Llama, "__init__", lambda self, name, **more: opened.append((name, more)))
    Llama.from_pretrained("org/name", filename="*q8_0.gguf", cache_dir="here", n_ctx=64)
    Llama.from_pretrained("org/name", "model.gguf")
    Llama.from_pretrained("org/name")
    assert [name for name, _ in opened] == ["org/name:q8_0", "org/name:model.gguf", "org/name"]
    assert (opened[0][1]["n_ctx"], opened[0][1]["_access"].cache_dir) == (64, "here")


@pytest.mark.habit("llama-cpp", "llm(prompt, grammar=LlamaGrammar.from_string(gbnf))", "works")
@pytest.mark.habit("llama-cpp", "LlamaGrammar.from_json_schema(schema)", "works")
@pytest.mark.habit(
    "llama-cpp", "create_chat_completion(…, response_format={'type': 'json_object', 'schema': …})", "works"
)
def test_an_answer_keeps_to_a_grammar(llm: Any) -> None:
    pytest.importorskip("llguidance")
    grammar = LlamaGrammar.from_string('root ::= "yes" | "no"')
    assert llm("Is it?", grammar=grammar, temperature=0)["choices"][0]["text"] in ("yes", "no")
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_object", "schema": schema}
    said = llm.create_chat_completion(MESSAGES, response_format=wanted, max_tokens=40, temperature=0)
    assert isinstance(json.loads(said["choices"][0]["message"]["content"])["n"], int)
    grammar = LlamaGrammar.from_json_schema(json.dumps(schema))
    assert json.loads(llm("{", grammar=grammar, max_tokens=40, temperature=0)["choices"][0]["text"])["n"] is not None
    with pytest.raises(RequestError, match="another library's"):
        llm("x", grammar=object())  # type: ignore[arg-type]


@pytest.mark.habit("llama-cpp", "Llama(…, seed=7); llm(prompt)", "works", "the same draws for the same seed")
@pytest.mark.habit(
    "llama-cpp",
    "llm(prompt, temperature=0.8, top_p=0.95)",
    "differs",
    "temperature goes first: other tokens are drawn than in llama.cpp, and it says so",
)
def test_a_seed_repeats_its_draws(llm: Any) -> None:
    def said(seed: int) -> list[str]:
        llm.set_seed(seed)
        return [llm(PROMPT, max_tokens=6, temperature=1.5)["choices"][0]["text"] for _ in range(2)]

    assert said(7) == said(7) != said(8)
    assert len(set(said(7))) == 2


@pytest.mark.habit("llama-cpp", "llm.generate(ids, temp=0.0)", "works")
@pytest.mark.habit("llama-cpp", "llm(ids)", "works")
def test_ids_go_in_and_come_out(llm: Any) -> None:
    ids = llm.tokenize(PROMPT.encode())
    stream = llm.generate(ids, temp=0.0)
    new = [next(stream) for _ in range(3)]
    assert llm.detokenize(new).decode() == llm(ids, max_tokens=3, temperature=0)["choices"][0]["text"]


@pytest.mark.habit("llama-cpp", "llm(prompt, logprobs=2)", "works")
@pytest.mark.habit("llama-cpp", "create_chat_completion(…, logprobs=True, top_logprobs=2)", "works")
def test_log_probabilities_stand_beside_the_tokens(llm: Any) -> None:
    one = llm(PROMPT, max_tokens=3, temperature=0, logprobs=2)["choices"][0]
    assert "".join(one["logprobs"]["tokens"]) == one["text"]
    assert all(
        top[token] == value
        for top, token, value in zip(
            one["logprobs"]["top_logprobs"], one["logprobs"]["tokens"], one["logprobs"]["token_logprobs"], strict=True
        )
    )
    chat = llm.create_chat_completion(MESSAGES, max_tokens=2, temperature=0, logprobs=True, top_logprobs=2)
    (first, _) = chat["choices"][0]["logprobs"]["content"]
    assert first["top_logprobs"][0]["logprob"] == first["logprob"]


@pytest.mark.habits("llama-cpp", "Llama(…, {}=…)", "pointer", table="src/pellucid/llama_cpp/asked.py:OPENING_ELSEWHERE")
@pytest.mark.parametrize("name", asked.OPENING_ELSEWHERE)
def test_an_option_that_is_not_here_says_what_is(name: str) -> None:
    with pytest.raises(TypeError) as error:
        Llama("nothing.gguf", **{name: 2})  # type: ignore[arg-type]
    assert asked.OPENING_ELSEWHERE[name] in str(error.value)


@pytest.mark.habits("llama-cpp", "llm(prompt, {}=…)", "pointer", table="src/pellucid/llama_cpp/asked.py:ELSEWHERE")
@pytest.mark.parametrize("name", asked.ELSEWHERE)
def test_an_argument_that_is_not_here_says_what_is(llm: Any, name: str) -> None:
    for call in (llm.create_completion, llm.create_chat_completion):
        with pytest.raises(TypeError) as error:
            call(MESSAGES, **{name: 0.25})
        assert asked.ELSEWHERE[name] in str(error.value)
    llm(PROMPT, max_tokens=1, **({name: asked.NEUTRAL[name]} if name in asked.NEUTRAL else {name: None}))


@pytest.mark.habits("llama-cpp", "llm.{}", "pointer", table="src/pellucid/llama_cpp/asked.py:METHODS")
@pytest.mark.parametrize("name", asked.METHODS)
def test_a_method_that_is_not_here_says_what_is(llm: Any, name: str) -> None:
    with pytest.raises(AttributeError) as error:
        getattr(llm, name)
    assert asked.METHODS[name] in str(error.value)


@pytest.mark.habit("llama-cpp", "llm(a prompt that is longer than n_ctx)", "works", "a ValueError, as theirs")
@pytest.mark.habit(
    "llama-cpp", "Llama(…, chat_format='llama-2')", "differs", "the model's own template is used, and it says so"
)
@pytest.mark.habit(
    "llama-cpp",
    "llm(prompt, repeat_penalty=1.1)",
    "differs",
    "counts the whole text, not the last 64 tokens, and says so",
)
def test_what_differs_says_so(
    llm: Any, smollm2: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notice, "_told", set())
    with pytest.raises(ContextLengthError, match="n_ctx=0"):
        llm("word " * 600)
    llm(PROMPT, max_tokens=1, repeat_penalty=1.1)
    assert "not the last 64 tokens" in capsys.readouterr().err
    with Llama(smollm2, chat_format="llama-2", type_k=1, type_v=1, n_threads=1) as other:
        assert "the model's own chat template is used" in capsys.readouterr().err
        other(PROMPT, max_tokens=1)
        assert "temperature goes before" in capsys.readouterr().err
    with pytest.raises(RequestError, match="kept alike"):
        Llama(smollm2, type_k=1)


@pytest.mark.habits(
    "loading",
    "from pellucid import {}",
    "pointer",
    table="src/pellucid/base/elsewhere.py:ELSEWHERE",
    note="`AutoModelForCausalLM`, `AutoTokenizer` or `AutoConfig`; or the other library's own, which takes ours",
)
@pytest.mark.parametrize("name", [*elsewhere.ELSEWHERE, "BloomForCausalLM", "BloomTokenizerFast"])
def test_a_name_that_is_not_here_says_what_is(name: str) -> None:
    with pytest.raises(AttributeError, match="→"):
        getattr(pellucid, name)
    assert not hasattr(pellucid, "nothing_of_that_name")


@pytest.mark.habit("llama-cpp", "Llama(model_path=…) where torch is not installed", "works", "on a CPU, by native")
def test_a_cpu_answers_without_torch() -> None:
    if compiler() is None:
        absent("no C compiler; install gcc or clang")
    program = """
import sys
sys.modules["torch"] = None  # importing it now raises ImportError
from pellucid import Llama
print(Llama("tiny", n_ctx=64, n_threads=1, verbose=False)("Once", max_tokens=3, temperature=0)["usage"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "'completion_tokens': 3" in done.stdout
