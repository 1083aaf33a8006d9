"""Every option of every command reaches what it names, or is refused: a probe for each, and none without one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from option_walk import Probe, Walk, cases, commands, differ, has, make_model, offline, options_of, same
from tokenizers import processors

from pellucid.base.errors import ModelNotFoundError

PROBES: dict[str, dict[str, Probe]] = {}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return make_model(folder / "model", 1), make_model(folder / "other", 2)


@pytest.fixture
def walk(models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Walk:
    monkeypatch.chdir(tmp_path)
    return Walk(tmp_path, *models, monkeypatch)


def test_no_option_is_without_a_probe_and_no_probe_without_an_option() -> None:
    assert PROBES.keys() == commands().keys() - {"pretrain", "finetune", "evaluate", "serve"}
    for name in PROBES:
        assert set(PROBES[name]) == set(options_of(commands()[name])), name


# --- what answers: generate and chat ------------------------------------------------------------------------------


RUN_HAS_NOT = (
    *("--model", "--prompt", "--chat-template", "--draft", "--prompt-lookup", "--offline", "words"),
    *("--json-schema", "--grammar", "--regex"),
)


class Answering:
    """``generate``, ``chat`` or ``run``, with one short answer by torch."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __call__(self, walk: Walk, *words: object, fails: bool = False, **settings: Any) -> Any:
        base: list[object] = ["--temperature", "0", "-n", "6", "--executor", "torch"]
        named = words[words.index("-m") + 1] if "-m" in words else walk.model
        if self.command == "run":  # by place: the model, then the prompt
            rest = [word for word in words if word not in ("-m", named)]
            prompt = [rest.pop(rest.index("-p") + 1)] if "-p" in rest else ["abcabcabc"]
            rest = [word for word in rest if word != "-p"]
            return walk("run", named, *prompt, *base, *rest, fails=fails, **settings)
        model = [] if "-m" in words else ["-m", walk.model]
        return walk(self.command, "-p", "abcabcabc", *base, *model, *words, fails=fails, **settings)

    def probes(self) -> dict[str, Probe]:
        go = self
        return {
            "--model": lambda walk: differ(go(walk), go(walk, "-m", walk.other)),
            "--ctx-size": lambda walk: same(go(walk, "-c", "50").seen["context_len"], [50]),
            "--memory": lambda walk: self.memory(walk),
            "--dtype": lambda walk: same(go(walk, "--dtype", "float16").seen["executor"][0]["dtype"], "torch.float16"),
            "--device": lambda walk: has(go(walk, "--device", "cuda:99", fails=True), "the device 'cuda:99' cannot"),
            "--threads": self.threads,
            "--executor": lambda walk: same(go(walk, "--executor", "native").seen["executor"][0]["kind"], "native"),
            "--kv-cache": self.kv_cache,
            "--offline": lambda walk: offline(walk, self.command, "-p", "x"),
            "--tokenizer": lambda walk: has(go(walk, "--tokenizer", "smollm2", fails=True), "is not the model's"),
            "words": lambda walk: same(
                prompt_of(walk(self.command, "-m", walk.model, "--executor", "torch", "-n", "1", "abc", "d")),
                "prompt 5 tokens" if self.command == "generate" else "prompt 8 tokens",
            ),
            "--prompt": lambda walk: differ(prompt_of(go(walk)), prompt_of(go(walk, "-p", "z"))),
            "--system": lambda walk: differ(prompt_of(go(walk)), prompt_of(go(walk, "-sys", "x"))),
            "--chat-template": self.chat_template,
            "--max-new-tokens": lambda walk: same(go(walk, "-n", "3").seen["max_new_tokens"], [3]),
            "--temperature": lambda walk: same(self.sampled(walk, "--temperature", "0.5").temperature, 0.5),
            "--top-k": lambda walk: same(self.sampled(walk, "--top-k", "7").top_k, 7),
            "--top-p": lambda walk: same(self.sampled(walk, "--top-p", "0.25").top_p, 0.25),
            "--min-p": lambda walk: same(self.sampled(walk, "--min-p", "0.25").min_p, 0.25),
            "--repeat-penalty": lambda walk: same(self.sampled(walk, "--repeat-penalty", "2").repetition_penalty, 2),
            "--frequency-penalty": lambda walk: same(
                self.sampled(walk, "--frequency-penalty", "1.5").frequency_penalty, 1.5
            ),
            "--presence-penalty": lambda walk: same(
                self.sampled(walk, "--presence-penalty", "-1").presence_penalty, -1
            ),
            "--seed": lambda walk: same(self.sampled(walk, "--seed", "41").seed, 41),
            "--stop": self.stop,
            "--json-schema": self.json_schema,
            "--grammar": self.grammar,
            "--regex": lambda walk: same(go(walk, "-q", "--regex", "(no){2}x").stdout.strip(), "nonox"),
            "--draft": lambda walk: has(go(walk, "--draft", walk.model, "-n", "12"), "guesses right"),
            "--prompt-lookup": self.prompt_lookup,
            "--quiet": lambda walk: (differ(go(walk).stderr, ""), same(go(walk, "-q").stderr, "")),
        }

    def threads(self, walk: Walk) -> None:
        for executor in ("torch", "native"):
            outcome = self(walk, "--executor", executor, "-t", "1")
            assert outcome.seen["executor"][0]["threads"] == 1
        outcome = self(walk, "-t", "2")
        assert outcome.seen["executor"][0]["threads"] == 2

    def memory(self, walk: Walk) -> None:
        (whole,) = self(walk).seen["context_len"]
        (small,) = self(walk, "--memory", "20K").seen["context_len"]
        assert small < whole
        has(self(walk, "--memory", "many", fails=True), "no amount of memory")

    def kv_cache(self, walk: Walk) -> None:
        outcome = self(walk, "--executor", "native", "--kv-cache", "int8")
        assert outcome.seen["executor"][0]["kv_cache"] == "int8"
        has(self(walk, "--kv-cache", "int8", fails=True), "--executor native")

    def sampled(self, walk: Walk, *words: str) -> Any:
        """The parameters that the answer was drawn with."""
        (params,) = self(walk, *words).seen["sampling"]
        return params

    def chat_template(self, walk: Walk) -> None:
        (walk.folder / "t.jinja").write_text("{{ 'q' * 40 }}{{ messages[-1].content }}")
        outcome = self(walk, "--chat-template", walk.folder / "t.jinja")
        assert "prompt 49 tokens" in outcome.stderr

    def stop(self, walk: Walk) -> None:
        whole = self(walk, "-q", "-n", "12").stdout.strip("\n")
        assert len(whole) > 4
        assert self(walk, "-q", "-n", "12", "--stop", whole[2:4]).stdout.strip("\n") == whole[: whole.index(whole[2:4])]

    def json_schema(self, walk: Walk) -> None:
        schema = '{"enum": [[1, 2]]}'
        (walk.folder / "s.json").write_text(schema)
        for given in (schema, walk.folder / "s.json"):
            assert json.loads(self(walk, "-q", "-n", "20", "--json-schema", given).stdout) == [1, 2]
        has(self(walk, "--json-schema", '{"not": {}}', fails=True), "cannot be held to: not")
        has(self(walk, "--json-schema", "nowhere.json", fails=True), "the schema cannot be read")
        has(self(walk, "--json-schema", schema, "--regex", "a", fails=True), "exclude each other")

    def grammar(self, walk: Walk) -> None:
        (walk.folder / "g.lark").write_text('start: "ya" end\nend: "!"')
        (walk.folder / "g.gbnf").write_text('root ::= "ya" end\nend ::= "!"')
        for name in ("g.lark", "g.gbnf"):
            assert self(walk, "-q", "--grammar", walk.folder / name).stdout.strip() == "ya!"

    def prompt_lookup(self, walk: Walk) -> None:
        has(
            self(walk, "--prompt-lookup", "3", "-p", "abcabcabcabc", "-n", "20", "--repeat-penalty", "0.1"),
            "guesses right",
        )


def prompt_of(outcome: Any) -> str:
    """``prompt 12 tokens``, as the figures have it."""
    match = re.search(r"prompt \d+ tokens", outcome.stderr)
    assert match is not None
    return match[0]


PROBES["chat"] = Answering("chat").probes()
_generate = Answering("generate")


def _prompts(walk: Walk) -> None:
    (walk.folder / "p.txt").write_text("abc\nxyz\n")
    arguments = ("generate", "-m", walk.model, "--executor", "torch", "--temperature", "0", "-n", "2", "--json")
    answers = walk(*arguments, "--prompts", walk.folder / "p.txt").stdout.splitlines()
    assert [json.loads(line)["prompt"] for line in answers] == ["abc", "xyz"]


def _file(walk: Walk) -> None:
    (walk.folder / "one.txt").write_text("xyz\n")
    assert _generate(walk, "-f", walk.folder / "one.txt", "--json").json["prompt"] == "abcabcabc\nxyz"


def _answers(walk: Walk) -> None:
    lines = _generate(walk, "--answers", "3", "--json", "--seed", "2", "--temperature", "2").stdout.splitlines()
    assert [json.loads(line).get("index", 0) for line in lines] == [0, 1, 2]
    assert len({json.loads(line)["text"] for line in lines}) == 3


def _logprobs(walk: Walk) -> None:
    has(_generate(walk, "--logprobs", "2", fails=True), "has no effect here")
    told = _generate(walk, "--logprobs", "2", "--json").json["logprobs"]
    assert all(one["logprob"] == max(one["top"].values()) and len(one["top"]) == 2 for one in told)


_run = Answering("run")
PROBES["run"] = {option: probe for option, probe in _run.probes().items() if option not in RUN_HAS_NOT} | {
    "model": _run.probes()["--model"],
    "words": lambda walk: differ(prompt_of(_run(walk)), prompt_of(_run(walk, "-p", "z"))),
    "--offline": lambda walk: offline(walk, "run", by="", then=("x",)),
}
PROBES["generate"] = _generate.probes() | {
    "--file": _file,
    "--answers": _answers,
    "--logprobs": _logprobs,
    "--prompts": _prompts,
    "--chat": lambda walk: has(_generate(walk, "--chat"), "prompt 12 tokens"),  # 9 letters, and three of the template
    "--json": lambda walk: same(_generate(walk, "--json").json["prompt"], "abcabcabc"),
}


def test_chat_reads_lines_and_leaves(walk: Walk) -> None:
    outcome = walk("chat", "-m", walk.model, "--executor", "torch", "-n", "2", stdin="hello\n/exit\nnever\n")
    assert outcome.stderr.count("answer 2 tokens") == 1


# --- what looks: tokenize, inspect, explain -----------------------------------------------------------------------


def _tokenize(walk: Walk, *words: object, **settings: Any) -> Any:
    return walk("tokenize", "-m", walk.model, *words, **settings)


def _eight(walk: Walk) -> None:
    (walk.folder / "t.jinja").write_text("{{ 'q' * 8 }}")
    same(
        _tokenize(walk, "x", "--chat-template", walk.folder / "t.jinja", "--ids").stdout.split(), 8 * [id_of(walk, "q")]
    )


def id_of(walk: Walk, text: str) -> str:
    return _tokenize(walk, text, "--ids").stdout.strip()


def _adds(walk: Walk) -> None:
    """A tokenizer that puts a token before each text."""
    backend = tokenizers.Tokenizer.from_file(str(walk.model / "tokenizer.json"))
    first = ("<|user|>", backend.token_to_id("<|user|>"))
    backend.post_processor = processors.TemplateProcessing(single="<|user|> $A", special_tokens=[first])
    backend.save(str(walk.folder / "tokenizer.json"))
    texts = [walk("tokenize", "-m", walk.folder, "x", "--ids", *more).stdout for more in ((), ("--no-special",))]
    assert [len(text.split()) for text in texts] == [2, 1]
    has(_tokenize(walk, "x", "--chat", "--no-special", fails=True), "--special has no effect")


PROBES["tokenize"] = {
    "text": lambda walk: differ(_tokenize(walk, "a"), _tokenize(walk, "b")),
    "--model": lambda walk: differ(_tokenize(walk, "hello"), walk("tokenize", "-m", "tiny", "hello")),
    "--offline": lambda walk: offline(walk, "tokenize", "x"),
    "--prompt": lambda walk: (
        same(_tokenize(walk, "-p", "a").stdout, _tokenize(walk, "a").stdout),
        has(_tokenize(walk, "a", "-p", "b", fails=True), "--prompt has no effect"),
    ),
    "--chat": lambda walk: same(len(_tokenize(walk, "a", "--chat", "--ids").stdout.split()), 4),
    "--system": lambda walk: same(len(_tokenize(walk, "a", "-sys", "b", "--ids").stdout.split()), 7),
    "--chat-template": _eight,
    "--special": _adds,
    "--ids": lambda walk: same(_tokenize(walk, "aa", "--ids").stdout.split(), 2 * [id_of(walk, "a")]),
    "--json": lambda walk: same([piece["text"] for piece in _tokenize(walk, "ab", "--json").json], ["a", "b"]),
}
PROBES["inspect"] = {
    "name": lambda walk: same(walk("inspect", walk.other, "--json").json["path"], str(walk.other)),
    "--model": lambda walk: (
        same(walk("inspect", "-m", walk.other, "--json").json["path"], str(walk.other)),
        has(walk("inspect", walk.model, "-m", walk.other, fails=True), "--model has no effect"),
    ),
    "--ctx-size": lambda walk: same(
        walk("inspect", walk.model, "-c", "77", "--json").json["memory"]["context_len"], 77
    ),
    "--offline": lambda walk: offline(walk, "inspect", by=""),
    "--json": lambda walk: differ(walk("inspect", walk.model), walk("inspect", walk.model, "--json")),
}


def _explain(walk: Walk, *words: object, **settings: Any) -> Any:
    text = () if "-p" in words or "--prompt" in words else ("abc",)
    return walk("explain", *text, "-m", walk.model, *words, **settings)


def _native(walk: Walk) -> None:
    """What the traced program would be made with: to compile it takes ten seconds, and test_explain_native does."""
    from pellucid.explain import native

    def make(*_: object, **settings: Any) -> None:
        raise ModelNotFoundError(
            f"native was asked for, quantize {settings['quantize']}, threads {settings['threads']}"
        )

    walk.patch.setattr(native, "Native", make)
    outcome = _explain(walk, "--executor", "native", "--quantize", "q8", "-t", "1", fails=True)
    has(outcome, "native was asked for, quantize q8, threads 1")
    has(_explain(walk, "--executor", "native", fails=True), "native was asked for, quantize None, threads None")
    has(_explain(walk, "--executor", "native", "--dtype", "float32", fails=True), "--dtype and --device are torch's")
    has(_explain(walk, "--quantize", "q8", fails=True), "add --executor native")


def _threads(walk: Walk) -> None:
    import torch

    counts: list[int] = []
    walk.patch.setattr(torch, "set_num_threads", counts.append)
    _explain(walk, "-t", "1", "--step", "logits")
    assert 1 in counts


def _dtype(walk: Walk) -> None:
    differ(*(_explain(walk, "--step", "logits", "--dtype", dtype, "--json") for dtype in ("float32", "bfloat16")))


def _html(walk: Walk, *words: object, **settings: Any) -> Any:
    outcome = _explain(walk, "--html", walk.folder / "page.html", *words, **settings)
    assert settings.get("fails") or (walk.folder / "page.html").stat().st_size > 10_000
    return outcome


def _served(walk: Walk, *words: object) -> dict[str, Any]:
    """What the server would have been started with."""
    from pellucid.explain.show import server

    calls: list[dict[str, Any]] = []

    def serve(view: Any, port: int = 0, **settings: Any) -> None:
        calls.append({"view": view, "port": port, **settings})

    walk.patch.setattr(server, "serve_page", serve)
    _explain(walk, "--open", *words)
    (call,) = calls
    return call


def _beside(walk: Walk) -> None:
    view = _served(walk, "--beside", walk.other)["view"]
    assert str(walk.other) in repr(vars(view)) or any(walk.other.name in str(name) for name in view.others)
    has(_explain(walk, "--beside", walk.other, fails=True), "--beside has no effect")


PROBES["explain"] = {
    "text": lambda walk: differ(walk("explain", "abc", "-m", walk.model), walk("explain", "xyz", "-m", walk.model)),
    "--model": lambda walk: differ(_explain(walk), walk("explain", "abc", "-m", walk.other)),
    "--dtype": _dtype,
    "--device": lambda walk: has(_explain(walk, "--device", "cuda:99", fails=True), "CUDA"),
    "--threads": _threads,
    "--executor": _native,
    "--quantize": _native,
    "--offline": lambda walk: offline(walk, "explain", "x"),
    "--prompt": lambda walk: (
        same(_explain(walk, "-p", "abc").stdout, _explain(walk).stdout),
        has(walk("explain", "a", "-p", "b", "-m", walk.model, fails=True), "--prompt has no effect"),
    ),
    "--chat": lambda walk: has(_explain(walk, "--chat"), "assistant"),
    "--system": lambda walk: has(_explain(walk, "-sys", "be kind"), "system"),
    "--layer": lambda walk: differ(_explain(walk), _explain(walk, "--layer", "1")),
    "--step": lambda walk: has(_explain(walk, "--step", "layers.1.pattern"), "layers.1.pattern"),
    "--cell": lambda walk: differ(
        _explain(walk, "--step", "layers.1.z"), _explain(walk, "--step", "layers.1.z", "--cell", "0,1,2")
    ),
    "--position": lambda walk: differ(_explain(walk), _explain(walk, "--position", "0")),
    "--target": lambda walk: differ(_explain(walk), _explain(walk, "--target", "q")),
    "--html": lambda walk: has(_html(walk), "page.html"),
    "--max-size": lambda walk: (
        _html(walk, "--max-size", "0.001", fails=True),
        has(_explain(walk, "--max-size", "1", fails=True), "--max-size has no effect"),
    ),
    "--open": lambda walk: same(_served(walk)["port"], 0),
    "--beside": _beside,
    "--port": lambda walk: (
        same(_served(walk, "--port", "4321")["port"], 4321),
        has(_explain(walk, "--port", "1", fails=True), "--port has no effect"),
    ),
    "--json": lambda walk: _explain(walk, "--json").json,
}


# --- models and tokenizers ------------------------------------------------------------------------------------------


def _two_files(walk: Walk, *words: object, **settings: Any) -> Any:
    outcome = walk("convert", walk.model, walk.folder / "out", "--two-files", "--force", *words, **settings)
    assert "-q" in words or "run.c" in outcome.stderr
    return outcome, (walk.folder / "out" / "parameters").stat().st_size, (walk.folder / "out" / "run.c").read_text()


def _adapter(walk: Walk) -> None:
    has(walk("convert", walk.model, walk.folder / "out", fails=True), "there is nothing to convert to")
    has(walk("convert", walk.model, walk.folder / "out", "--kv-cache", "f16", fails=True), "--kv-cache has no effect")


def _gguf(walk: Walk, *words: object) -> Any:
    from pellucid.checkpoint.files.gguf import GGUFFile

    (walk.folder / "text.txt").write_text("A text of some words, and more of them. " * 20)
    outcome = walk("convert", walk.model, walk.folder / "x.gguf", "--force", *words)
    return outcome, GGUFFile(walk.folder / "x.gguf").metadata


def _imatrix(walk: Walk, *words: object) -> Any:
    return _gguf(walk, "--quantize", "q4_0", "--imatrix", walk.folder / "text.txt", *words)[1]


def _folder_dtype(walk: Walk) -> str:
    from pellucid.checkpoint import open_config

    walk("convert", walk.model, walk.folder / "half", "--dtype", "float16")
    return open_config(walk.folder / "half").dtype


def _over(walk: Walk) -> None:
    """Without it what is there stays."""
    file = walk.folder / "there.gguf"
    file.write_bytes(b"a model")
    has(walk("convert", walk.model, file, fails=True), "there already")
    same(file.read_bytes(), b"a model")
    walk("convert", walk.model, file, "--force")
    same(file.read_bytes()[:4], b"GGUF")


def _quantizing_threads(walk: Walk) -> None:
    from pellucid.checkpoint import gguf_out

    seen, quantize = [], gguf_out.quantize

    def counted(values: Any, dtype: str, columns: Any, threads: int) -> Any:
        seen.append(threads)
        return quantize(values, dtype, columns, threads)

    walk.patch.setattr(gguf_out, "quantize", counted)
    _gguf(walk, "--quantize", "q8_0", "--threads", "3")
    same(set(seen), {3})


PROBES["convert"] = {
    "--imatrix": lambda walk: same((_gguf(walk), _imatrix(walk))[1]["quantize.imatrix.dataset"], "text.txt"),
    "--save-imatrix": lambda walk: same(
        (_imatrix(walk, "--save-imatrix", walk.folder / "i"), (walk.folder / "i").read_bytes()[:4])[1], b"GGUF"
    ),
    "--dtype": lambda walk: same(_folder_dtype(walk), "float16"),
    "--force": _over,
    "--threads": _quantizing_threads,
    "model": lambda walk: has(walk("convert", "nowhere/at/all", walk.folder, fails=True), "nowhere/at/all"),
    "out": lambda walk: same((_two_files(walk), sorted(f.name for f in (walk.folder / "out").iterdir()))[1], FILES),
    "--two-files": lambda walk: _adapter(walk),
    "--quantize": lambda walk: same(_two_files(walk, "--quantize", "q8")[1] < _two_files(walk)[1], True),
    "--kv-cache": lambda walk: has_bits(_two_files(walk, "--kv-cache", "int8")[2], 8),
    "--offline": lambda walk: offline(walk, "convert", by="", then=("o", "--two-files")),
    "--quiet": lambda walk: same(_two_files(walk, "-q")[0].stderr, ""),
}
FILES = ["parameters", "run.c"]


def has_bits(program: str, bits: int) -> None:
    assert re.search(rf"#define CACHE_BITS {bits}\b", program)


def _pull(walk: Walk) -> None:
    from pellucid.checkpoint.sources import catalogue

    calls: list[dict[str, Any]] = []

    def fetch(entry: Any, **settings: Any) -> Path:
        calls.append(settings)
        return walk.folder

    walk.patch.setattr(catalogue, "fetch_entry", fetch)
    walk("pull", "smollm2", "--verify")
    walk("pull", "smollm2")
    assert [call["verify"] for call in calls] == [True, False]
    has(walk("pull", "org/none", "--verify", fails=True), "--verify has no effect")


PROBES["pull"] = {
    "name": lambda walk: same(walk("pull", walk.model).stdout.strip(), str(walk.model)),
    "--verify": _pull,
    "--offline": lambda walk: offline(walk, "pull", by=""),
    "--quiet": lambda walk: same(walk("pull", "tiny", "-q").stdout, ""),
}


def _rm(walk: Walk) -> None:
    from pellucid.checkpoint.sources import hub

    folder = walk.folder / "hub" / "models--org--fetched"
    (folder / "blobs").mkdir(parents=True)
    walk.patch.setattr(hub, "folder_of", lambda repo: folder)
    has(walk("rm", "org/fetched", fails=True), "nobody can be asked")
    assert folder.is_dir()
    walk("rm", "org/fetched", "--yes")
    assert not folder.exists()


PROBES["rm"] = {"names": _rm, "--yes": _rm}
PROBES["list"] = {"--json": lambda walk: same("tiny" in {row["name"] for row in walk("list", "--json").json}, True)}


def _train(walk: Walk, *words: object, text: str = "the cat sat on the mat. " * 40, **settings: Any) -> Any:
    data = () if "-d" in words else ("-d", walk.folder / "t.txt")
    (walk.folder / "t.txt").write_text(text)
    outcome = walk("tokenizer", "train", *data, "-o", walk.folder / "tok", "--vocab-size", "270", *words, **settings)
    return outcome, json.loads((walk.folder / "tok" / "tokenizer.json").read_text())["model"]


def _of_records(walk: Walk, *words: object) -> Any:
    (walk.folder / "t.jsonl").write_text(json.dumps({"text": "aaaa bbbb", "body": "ccxcc ddxdd " * 9}) + "\n")
    return _train(walk, "-d", walk.folder / "t.jsonl", *words)[1]


PROBES["tokenizer train"] = {
    "--data": lambda walk: differ(_train(walk)[1], _of_records(walk)),
    "--text-field": lambda walk: differ(_of_records(walk), _of_records(walk, "--text-field", "body")),
    "--separator": lambda walk: differ(
        *(_train(walk, *more, text="ab\n---\n" * 50)[1] for more in ((), ("--separator", "---")))
    ),
    "--kind": lambda walk: differ(_train(walk)[1], _train(walk, "--kind", "char")[1]),
    "--vocab-size": lambda walk: differ(_train(walk)[1], _train(walk, "--vocab-size", "260")[1]),
    "--out": lambda walk: same((_train(walk), (walk.folder / "tok" / "tokenizer.json").is_file())[1], True),
    "--quiet": lambda walk: (differ(_train(walk)[0].stderr, ""), same(_train(walk, "-q")[0].stderr, "")),
}


@pytest.mark.parametrize("probe", cases(PROBES))
def test_the_option_reaches_what_it_names(probe: Probe, walk: Walk) -> None:
    probe(walk)
