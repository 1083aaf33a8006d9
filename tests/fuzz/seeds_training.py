"""Records to learn from, folders of tokenized examples, and run.yaml."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fuzz.mutations import Binary, Folder, Json, JsonLines, Text
from fuzz.seeds_tokenizers import TOKENIZER_CONFIG, tokenizer_jsons

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
RECORDS: list[Any] = [
    {"text": "Hello"},
    {"prompt": "a", "completion": "b"},
    {
        "prompt": [{"role": "user", "content": "a"}],
        "completion": [{"role": "assistant", "content": "b"}],
        "label": True,
    },
    {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1}],
        "tools": [TOOL],
        "label": True,
    },
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"},
    {"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]]},
    {"instruction": "a", "instances": [{"input": "b", "output": "c"}]},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {
        "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "rejected": [{"role": "user", "content": "a"}],
    },
]


def read_records(folder: Path) -> None:
    from pellucid.train.data.records import read_examples
    from pellucid.train.data.sources import DataError, documents

    list(read_examples(folder / "records.jsonl", fill={"name": "x"}))
    with suppress(DataError):  # most records have no text of that name
        ["".join(pieces) for pieces in documents(folder / "records.jsonl")]


def read_masked(folder: Path) -> None:
    from pellucid.text.load import load_tokenizer
    from pellucid.train.data.examples import Pair
    from pellucid.train.data.masks import Masking
    from pellucid.train.data.records import read_examples

    tokenizer = _cached_tokenizer(folder, load_tokenizer)
    masking = Masking(tokenizer, stop_token_ids=(1,))
    for read in read_examples(folder / "records.jsonl"):
        if isinstance(read.example, Pair):
            masking.pair(read.example, read.where)
        elif read.example is not None:
            masking.tokens(read.example, read.where)


_tokenizers: dict[Path, Any] = {}


def _cached_tokenizer(folder: Path, load: Callable[[Path], Any]) -> Any:
    if folder not in _tokenizers:
        _tokenizers[folder] = load(folder)
    return _tokenizers[folder]


def records_seeds() -> list[Folder]:
    return [{"records.jsonl": JsonLines([record])} for record in RECORDS]


def masked_seeds() -> list[Folder]:
    files: Folder = {"tokenizer.json": tokenizer_jsons()[0], "tokenizer_config.json": Json(TOKENIZER_CONFIG)}
    return [{**files, "records.jsonl": JsonLines([record])} for record in RECORDS]


def read_made_examples(folder: Path) -> None:
    """A folder of tokenized examples, which is believed where it is what was asked for."""

    from pellucid.text.load import load_tokenizer
    from pellucid.train.data.example_store import Making, tokenize_examples
    from pellucid.train.data.masks import Masking

    tokenizer = _cached_tokenizer(folder, load_tokenizer)
    before = Path.cwd()
    os.chdir(folder)  # the manifest names its source as it was named
    kept = {path: path.read_bytes() for path in Path("made").glob("*")}
    try:
        masking = Masking(tokenizer, stop_token_ids=(1,))
        examples = tokenize_examples(Path("made"), [Path("records.jsonl")], masking, Making(context_len=64))
        for number in range(len(examples)):
            _ = examples[number]
        _ = (examples.lengths, examples.records)
    finally:
        for path, data in kept.items():
            path.write_bytes(data)
        os.chdir(before)


def examples_seeds() -> list[Folder]:

    files = masked_seeds()[0]
    with tempfile.TemporaryDirectory() as made:
        for name, content in files.items():
            (Path(made) / name).write_bytes(content.whole())
        read_made_examples(Path(made))
        _tokenizers.clear()
        manifest = json.loads((Path(made) / "made" / "manifest.json").read_text())
        others = {f"made/{path.name}": Binary(path.read_bytes(), 200) for path in (Path(made) / "made").iterdir()}
    return [{**files, **others, "made/manifest.json": Json(manifest)}]


RUN = """# a run
steps: 100
batch-size: 4
learning-rate: 0.001
context_len: 64
data: [a.txt, b.txt]
seed: 1
"""
YAML_WORDS = (
    "steps:",
    "[a, b]",
    "{a: b}",
    "&a",
    "*a",
    "!!python/object:os.system",
    "2026-11-27",
    "yes",
    "~",
    "0x10",
    "1e5",
    ".nan",
    "- a",
    "? a",
    "!!binary",
    "12:30:45",
    "<<:",
    "|",
    ">",
    "true",
    "1_000",
)


def read_run(folder: Path) -> None:
    from pellucid.cli.runs.run_config import read_yaml

    read_yaml(str(folder / "run.yaml"))


def run_seeds() -> list[Folder]:
    return [{"run.yaml": Text(RUN, YAML_WORDS)}]
