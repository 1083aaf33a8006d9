"""What fine-tuning must not learn: answers that a label calls bad, messages of weight 0, empty answers, calls that no
template wrote; and what it must learn whole: an answer that quotes a stop token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid import AutoTokenizer
from pellucid.cli.app import app
from pellucid.text.tokenizer import Tokenizer
from pellucid.train.data.example_store import Examples, Making, describe, tokenize_examples
from pellucid.train.data.examples import Completion, Conversation, Example, Pair
from pellucid.train.data.masks import Masked, Masking
from pellucid.train.data.records import read_examples
from pellucid.train.data.sources import DataError

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}
# The plainest of templates, and one that marks what the assistant says.
PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n{% else %}{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def mini(shared: Path) -> Tokenizer:
    return AutoTokenizer.from_pretrained(shared / "minimind_tokenizer")


def write(path: Path, *records: Any) -> Path:
    file = path / "data.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return file


def read(path: Path, *records: Any) -> list[Example | None]:
    return [one.example for one in read_examples(write(path, *records))]


def made(path: Path, tokenizer: Tokenizer, *records: Any, template: str = PLAIN, **making: Any) -> Examples:
    file = write(path, *records)
    return tokenize_examples(
        path / "made", [file], Masking(tokenizer, chat_template=template), Making(**{"context_len": 128, **making})
    )


def said(tokenizer: Tokenizer, examples: Examples) -> list[str]:
    """What is learned of each example."""
    return [tokenizer.decode(ids[mask].tolist()) for ids, mask in (examples[n] for n in range(len(examples)))]


def learned(tokenizer: Tokenizer, one: Masked) -> str:
    return tokenizer.decode([token for token, counts in one if counts])


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [False, 0, "false", "False"])
@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "completion": " a"},
        {"prompt": [USER], "completion": [ANSWER]},
        {"messages": [USER, ANSWER]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
        {"instruction": "q", "output": "a"},
    ],
    ids="+".join,
)
@pytest.mark.parametrize("name", ["label", "kto_tag"])
def test_an_answer_that_its_label_calls_bad_is_not_learned_in_any_form(
    record: dict[str, Any], name: str, label: Any, tmp_path: Path
) -> None:
    assert read(tmp_path, {**record, name: label}) == [None]
    good = "True" if isinstance(label, str) else type(label)(1)
    assert read(tmp_path, {**record, name: good}) == read(tmp_path, record) != [None]


def test_trl_records_of_kto_teach_their_good_answers_alone_and_the_others_are_counted(
    tmp_path: Path, mini: Tokenizer
) -> None:
    records = [{"prompt": f"q{n}", "completion": f" a{n}", "label": n % 2 == 1} for n in range(10)]
    examples = made(tmp_path, mini, *records)
    assert said(mini, examples) == [f" a{n}<|im_end|>" for n in (1, 3, 5, 7, 9)]
    assert "5 left out, since their label says they are bad (first: " in describe(examples.counts)
    assert "data.jsonl, line 1)" in describe(examples.counts)


def test_a_label_that_is_no_judgement_is_left_alone_and_a_number_between_is_refused(tmp_path: Path) -> None:
    assert read(tmp_path, {"text": "a film", "label": 0}) != [None], "a class of texts"
    assert read(tmp_path, {"messages": [USER, ANSWER], "label": "greeting"}) != [None]
    with pytest.raises(DataError, match=r"line 1: the label says(.|\n)*true or false, received 0\.3"):
        read(tmp_path, {"prompt": "q", "completion": "a", "label": 0.3})


def test_where_all_are_bad_one_error_says_so(tmp_path: Path, mini: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"no example is left to learn from.*4 left out, since their label"):
        made(tmp_path, mini, *[{"messages": [USER, ANSWER], "label": False}] * 4)


# --- weights ---------------------------------------------------------------------------------------------------------

WEIGHTED = [USER, {"role": "assistant", "content": "WRONG"}, USER, {"role": "assistant", "content": "right"}]


@pytest.mark.parametrize("template", [PLAIN, MARKED], ids=["plain", "marked"])
@pytest.mark.parametrize(
    ("no", "yes"),
    [
        ({"weight": 0}, {"weight": 1}),
        ({"weight": 0.0}, {}),
        ({"train": False}, {"train": True}),
        ({"training": False}, {}),
        ({"loss": False}, {"loss": True}),
    ],
)
@pytest.mark.habit("training", "loss on each message: OpenAI's `weight`, Axolotl's `train`, ms-swift's `loss`", "works")
def test_a_message_of_weight_0_is_read_and_not_learned(
    no: dict[str, Any], yes: dict[str, Any], template: str, tmp_path: Path, mini: Tokenizer
) -> None:
    messages = [WEIGHTED[0], {**WEIGHTED[1], **no}, WEIGHTED[2], {**WEIGHTED[3], **yes}]
    examples = made(tmp_path, mini, {"messages": messages}, template=template)
    assert said(mini, examples) == ["right<|im_end|>"]
    assert "WRONG" in mini.decode(examples[0][0].tolist()), "it stays what the next answer follows"
    both = made(tmp_path, mini, {"messages": WEIGHTED}, template=template)
    assert said(mini, both) == ["WRONG<|im_end|>right<|im_end|>"]


def test_where_answers_stand_apart_the_unlearned_one_has_no_example(tmp_path: Path, shared: Path) -> None:
    qwen = AutoTokenizer.from_pretrained(shared / "qwen3_tokenizer")
    messages = [WEIGHTED[0], {**WEIGHTED[1], "weight": 0}, *WEIGHTED[2:]]
    examples = tokenize_examples(
        tmp_path / "made", [write(tmp_path, {"messages": messages})], Masking(qwen), Making(context_len=128)
    )
    assert said(qwen, examples) == ["<think>\n\n</think>\n\nright<|im_end|>"]


@pytest.mark.habit("training", "a message's weight between 0 and 1", "pointer", "0 or 1")
def test_weights_are_yes_or_no_and_no_template_sees_them(tmp_path: Path, mini: Tokenizer) -> None:
    for weight in (0.5, 2, "1", [1]):
        with pytest.raises(DataError, match=r"line 1: a message's weight(.|\n)*0 or 1"):
            read(tmp_path, {"messages": [USER, {**ANSWER, "weight": weight}]})
    assert read(tmp_path, {"messages": [USER, {**ANSWER, "weight": 1}]}) == [Conversation([USER, ANSWER])]
    with pytest.raises(DataError, match="1 left out, since their weights"):
        made(tmp_path, mini, {"messages": [USER, {**ANSWER, "weight": 0}]})


# --- nothing said ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "q", "output": ""},
        {"prompt": "q", "completion": " \n"},
        {"messages": [USER, {"role": "assistant", "content": ""}]},
        {"prompt": [USER], "completion": [{"role": "assistant", "content": " "}]},
        {"text": "  "},
        {"instruction": "q", "output": "", "history": [["a", "b"]]},
    ],
    ids="+".join,
)
def test_an_empty_answer_is_left_out_counted_and_named(record: dict[str, Any], tmp_path: Path, mini: Tokenizer) -> None:
    examples = made(tmp_path, mini, {"instruction": "q", "output": "an answer"}, record)
    assert said(mini, examples) == ["an answer<|im_end|>"]
    assert "1 left out, since their answer is empty (first: " in describe(examples.counts)
    assert "line 2" in examples.counts.first["num_empty"]


@pytest.mark.parametrize("template", [PLAIN, MARKED], ids=["plain", "marked"])
def test_an_empty_answer_among_others_is_not_learned_and_counted(
    template: str, tmp_path: Path, mini: Tokenizer
) -> None:
    messages = [USER, {"role": "assistant", "content": ""}, USER, ANSWER]
    examples = made(tmp_path, mini, {"messages": messages}, template=template)
    assert said(mini, examples) == ["Hello!<|im_end|>"]
    assert "1 empty answers within conversations, not learned" in describe(examples.counts)


def test_of_a_pair_neither_answer_may_be_empty(tmp_path: Path, mini: Tokenizer) -> None:
    good = {"prompt": "q", "chosen": " a", "rejected": " b"}
    examples = made(tmp_path, mini, good, {**good, "chosen": ""}, {**good, "rejected": " "}, paired=True)
    assert (len(examples), examples.counts.num_empty) == (2, 2)


# --- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.habit("data", "finetune -d: OpenAI's content parts", "works")
def test_parts_that_are_texts_are_the_text_and_others_are_named(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Hello!"}]}
    assert read(tmp_path, {"messages": [{"role": "user", "content": parts}, answer]}) == [Conversation([USER, ANSWER])]
    pair = {"prompt": [{"role": "user", "content": parts}], "chosen": [answer], "rejected": [ANSWER]}
    (read_pair,) = read(tmp_path, pair)
    assert isinstance(read_pair, Pair)
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    for part in (image, {"type": "text"}, 3):
        with pytest.raises(DataError, match=r"line 1: a message holds what is no text"):
            read(tmp_path, {"messages": [{"role": "user", "content": [*parts, part]}, ANSWER]})


# --- tools -----------------------------------------------------------------------------------------------------------

CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}]}
RESULT = {"role": "tool", "content": "2"}
TOOL = {"name": "add", "description": "Add.", "parameters": {"type": "object", "properties": {"a": {}}}}
NAMES_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}" + PLAIN


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, CALL, RESULT, ANSWER]},
        {"messages": [USER, {**CALL, "content": "I will add."}, RESULT, ANSWER]},
        {"messages": [USER, CALL, RESULT, ANSWER], "tools": [TOOL]},
        {"messages": [USER, {"role": "assistant", "content": "", "function_call": {"name": "add", "arguments": "{}"}}]},
        {
            "conversations": [
                {"from": "human", "value": "Hi"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
            ]
        },
    ],
    ids=["alone", "with words", "with tools named before", "OpenAI's older form", "ShareGPT"],
)
@pytest.mark.parametrize("template", [PLAIN, MARKED, NAMES_TOOLS], ids=["plain", "marked", "names tools"])
def test_a_call_that_the_template_does_not_write_is_refused(
    record: dict[str, Any], template: str, tmp_path: Path, mini: Tokenizer
) -> None:
    with pytest.raises(DataError, match=r"line 1: (the assistant calls add|of what the assistant says)(.|\n)*--chat-"):
        made(tmp_path, mini, record, template=template)


def test_a_call_whose_arguments_are_left_out_is_refused_too(tmp_path: Path, mini: Tokenizer) -> None:
    names = PLAIN.replace(
        "{{ m.content }}", "{{ m.content }}{% for c in m.tool_calls %}{{ c.function.name }}{% endfor %}"
    )
    with pytest.raises(DataError, match="'a' in what is learned"):
        made(tmp_path, mini, {"messages": [USER, CALL]}, template=names)


def test_the_calls_of_the_real_data_are_learned_where_the_template_writes_them_and_refused_where_not(
    shared: Path, tmp_path: Path, mini: Tokenizer
) -> None:
    qwen = AutoTokenizer.from_pretrained(shared / "qwen3_tokenizer")
    writes, writes_none = Masking(qwen), Masking(qwen, chat_template=PLAIN)
    num_calls = 0
    for one in read_examples(shared / "instruct_pref/glaive_toolcall_en_demo.json"):
        assert isinstance(one.example, Conversation)
        if any(message.get("tool_calls") for message in one.example.messages) and num_calls < 40:
            num_calls += 1
            assert writes.tokens(one.example, one.where)
            with pytest.raises(DataError, match="does not write"):
                writes_none.tokens(one.example, one.where)
    assert num_calls == 40


# --- stop tokens that an answer quotes -------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [PLAIN, MARKED], ids=["plain", "marked"])
def test_an_answer_that_quotes_a_stop_token_is_learned_whole(template: str, mini: Tokenizer) -> None:
    stop = mini.convert_tokens_to_ids("<|im_end|>")
    content = "A turn ends with <|im_end|>, and then the next begins."
    chat = Conversation([USER, {"role": "assistant", "content": content}, USER, ANSWER])
    (one,) = Masking(mini, chat_template=template).tokens(chat, "here")
    assert learned(mini, one) == content + "<|im_end|>Hello!<|im_end|>"
    assert [token for token, counts in one if counts].count(stop) == 2, "the quotation is ordinary tokens"
    assert mini.decode(one.ids).count("<|im_end|>") == 5, "and reads as it was written"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "end", " ", "\n", "“", "你好", "<", "|>"]), max_size=8))
def test_whatever_an_answer_quotes_it_is_learned_up_to_its_end(shared: Path, mini: Tokenizer, parts: list[str]) -> None:
    content = "".join(["Say:", *parts, "."])
    (one,) = Masking(mini, chat_template=PLAIN).tokens(
        Conversation([USER, {"role": "assistant", "content": content}]), "here"
    )
    assert learned(mini, one) == content + "<|im_end|>"


def test_a_stop_token_at_an_answers_end_is_its_end(mini: Tokenizer) -> None:
    chat = Conversation([USER, {"role": "assistant", "content": "Done.<|im_end|>"}])
    (one,) = Masking(mini, chat_template=PLAIN).tokens(chat, "here")
    assert learned(mini, one) == "Done.<|im_end|>"


def test_sentencepiece_writes_the_quotation_or_says_that_it_cannot(shared: Path) -> None:
    llama = AutoTokenizer.from_pretrained(shared / "llama2_tokenizer")
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    chat = Conversation([USER, {"role": "assistant", "content": "a</s>b"}])
    with pytest.raises(DataError, match="quotes a stop token"):
        Masking(llama, chat_template=template).tokens(chat, "here")


def test_a_stop_token_in_a_call_is_named(tmp_path: Path, mini: Tokenizer) -> None:
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "a", "arguments": {"x": "<|im_end|>"}}}],
    }
    writes = PLAIN.replace("{{ m.content }}", "{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}")
    with pytest.raises(DataError, match=r"quotes <\|im_end\|>"):
        made(tmp_path, mini, {"messages": [USER, call]}, template=writes)


def test_a_completion_is_taken_as_it_stands(mini: Tokenizer) -> None:
    """Whoever writes prompts and completions writes the special tokens into them."""
    (one,) = Masking(mini).tokens(Completion("<|im_start|>user\nq<|im_end|>\n", "a<|im_end|>"), "here")
    assert learned(mini, one) == "a<|im_end|>"


# --- the cases that were handed over ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kto_trl", [f" a{n}<|im_end|>" for n in (1, 3, 5, 7, 9)]),
        ("trained_weight", ["right<|im_end|>"] * 4),
        ("emptyanswer", [f"a{n}<|im_end|>" for n in (0, 1, 2, 4, 5, 6, 7, 8, 9)]),
        ("mm", ["yo<|im_end|>", "b<|im_end|>"]),
    ],
)
def test_the_cases_teach_what_they_should(
    name: str, expected: list[str], shared: Path, tmp_path: Path, mini: Tokenizer
) -> None:
    file = shared.parent / f"cases/training/{name}.jsonl"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    examples = tokenize_examples(tmp_path, [file], Masking(mini, chat_template=PLAIN), Making(context_len=64))
    assert said(mini, examples) == expected


def test_finetune_says_what_it_left_out(shared: Path, tmp_path: Path) -> None:
    """As a person sees it, on a model of random numbers."""
    from pellucid import AutoModelForCausalLM
    from pellucid.families import FAMILIES

    tiny = {**FAMILIES["qwen2"].TINY, "vocab_size": 6400}
    AutoModelForCausalLM.from_config(tiny, seed=0, device="cpu").save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(shared / "minimind_tokenizer").save_pretrained(tmp_path / "model")
    records = [{"instruction": "q", "output": "a"}, {"instruction": "q", "output": ""}]
    file = write(tmp_path, *records, {"prompt": "q", "completion": "a", "label": False})
    words = ["finetune", "-m", tmp_path / "model", "-d", file, "-o", tmp_path / "run", "--preview", "--val-fraction", 0]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert "1 left out, since their answer is empty (first: " in result.stderr
    assert "1 left out, since their label says they are bad" in result.stderr


def test_keys_of_records_that_nothing_reads_are_named_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scored.jsonl"
    scored = {"prompt": "Hi", "completion": "Hello!", "weight": 0, "score": 0.1}
    path.write_text("".join(json.dumps(scored | {"id": i}) + "\n" for i in range(3)))
    assert len(list(read_examples(path))) == 3
    told = [line for line in capfd.readouterr().err.splitlines() if "scored.jsonl" in line]
    assert len(told) == 1
    assert told[0].endswith("nothing here reads have no effect: 'id', 'score', 'weight'")
