"""Inputs that once ended in a raw exception, a hang or gigabytes: each is one clear error now, or does no harm.

The fuzzing harness (``fuzz/``) reads the same kinds with limits on time and memory; here are the words.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import absent
from fuzz.seeds_tokenizers import TOKENIZER_CONFIG, added
from fuzz.targets import TARGETS

from pellucid.base.errors import CheckpointError, ConfigError, PellucidError, TokenizerError
from pellucid.base.files import MAX_JSON_DEPTH, parse_json
from pellucid.base.notice import notice
from pellucid.base.typed import scalar
from pellucid.text.load import load_tokenizer
from pellucid.text.readers.growth import MOST, check_growth


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


A = {"String": "a"}


@pytest.mark.parametrize(
    "steps",
    [
        [replace(A, "a" * 20)] * 8,
        [replace(A, "aa")] * 7,
        [replace({"String": "ab"}, "a" * 200)],
        [replace({"Regex": "x*"}, "yy")] * 4,
        [replace({"Regex": "(?<="}, "yy")] * 4,  # what Python cannot read may match nothing
        [{"type": "Sequence", "normalizers": [replace(A, "aaaa")] * 2}] * 2,
        [{"type": "Prepend", "prepend": "a" * 5000}, replace(A, "a" * 60)],
        [replace({"String": ""}, "a" * 100)],
    ],
)
def test_replacements_that_multiply_are_refused_before_they_run(steps: list[Any]):
    with pytest.raises(TokenizerError, match=r"^x: the normalizer can make a text enormously longer"):
        check_growth("normalizer", {"type": "Sequence", "normalizers": steps}, "x")


@pytest.mark.parametrize(
    "part",
    [
        None,
        {"type": "NFKC"},
        {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace({"String": " "}, "▁")]},
        {"type": "Sequence", "normalizers": [replace({"Regex": " {2,}"}, " "), replace({"String": "``"}, '"')] * 5},
        {"type": "Sequence", "decoders": [replace({"String": "▁"}, " "), {"type": "Fuse"}]},
        replace(A, "a" * MOST),
    ],
)
def test_what_published_tokenizers_replace_is_taken(part: Any):
    check_growth("normalizer", part, "x")


def test_the_library_is_not_asked_where_its_answer_would_have_no_end(tmp_path: Path):
    seed = TARGETS["tokenizer-json"].seeds()[0]
    described = json.loads(seed["tokenizer.json"].whole())
    described["normalizer"] = {"type": "Sequence", "normalizers": [replace({"String": "l"}, "l" * 20)] * 8}
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(TokenizerError, match="enormously longer"):
        load_tokenizer(tmp_path)


def test_ids_far_beyond_the_vocabulary_are_refused(tmp_path: Path):
    """An executor's or a program's table has a row for every id below the last."""
    described = json.loads(TARGETS["tokenizer-json"].seeds()[0]["tokenizer.json"].whole())
    described["model"]["vocab"]["H"] = 300_000_000
    described["added_tokens"] = [added(0, "<s>")]
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(TokenizerError, match="impossible id"):
        load_tokenizer(tmp_path).save_pretrained(tmp_path / "saved")


def test_added_tokens_may_not_climb_away_from_the_pieces(tmp_path: Path):
    seed = TARGETS["sentencepiece"].seeds()[0]
    (tmp_path / "tokenizer.model").write_bytes(seed["tokenizer.model"].whole())
    far = {str(2000 + place * 2**20): {"content": f"<x{place}>"} for place in range(3)}
    described = {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": far}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(described))
    with pytest.raises(TokenizerError, match="impossible id"):
        load_tokenizer(tmp_path)


def test_a_piece_that_is_no_utf_8_is_named_when_the_model_is_read(tmp_path: Path):
    data = TARGETS["sentencepiece"].seeds()[0]["tokenizer.model"].whole()
    (tmp_path / "tokenizer.model").write_bytes(data.replace("▁Hello".encode(), "▁Hell".encode() + b"\xff", 1))
    with pytest.raises(TokenizerError, match=r"not a SentencePiece model.*utf-8"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', '{"\\uDFFF": 1}', '["\\ud800\\ud800\\udc00"]'])
def test_half_a_surrogate_pair_is_no_text(text: str):
    for form in (text, text.encode()):
        with pytest.raises(CheckpointError, match=r"^x: .*surrogate"):
            parse_json(form, "x")
    assert parse_json('{"a": "\\ud83d\\ude00 \\\\ud800"}', "x") == {"a": "😀 \\ud800"}


def test_json_is_as_deep_as_anybody_needs_and_no_deeper():
    assert parse_json("[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH, "x")
    for depth in (MAX_JSON_DEPTH + 2, 900, 10**6):
        with pytest.raises(CheckpointError, match="nested too deeply"):
            parse_json('{"a":' * depth + "0" + "}" * depth, "x")


def test_tokens_of_a_config_that_are_no_tokens_are_named(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_bytes(TARGETS["tokenizer-json"].seeds()[0]["tokenizer.json"].whole())
    for key, value in (("bos_token", 3), ("tokenizer_class", ["x"]), ("model_max_length", 10**400), ("eos_token", [1])):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**TOKENIZER_CONFIG, key: value}))
        with pytest.raises(TokenizerError, match="tokenizer_config"):
            load_tokenizer(tmp_path)


def test_a_scalar_is_one_value_of_its_type():
    import numpy as np

    values = {"a": np.uint32(3), "b": np.array([3]), "c": np.array([1, 2]), "d": "3", "e": True, "f": np.float32(0.5)}
    assert scalar(values, "a", int, where="x") == 3
    assert scalar(values, "absent", int, 7, where="x") == 7
    assert scalar(values, "f", float, where="x") == 0.5
    for key in "bcde":
        with pytest.raises(ConfigError, match=f"^x: {key} is not what it must be"):
            scalar(values, key, int, where="x")


def test_a_notice_writes_no_escapes_to_the_terminal(capsys: pytest.CaptureFixture[str]):
    notice("a key \x1b[2J of a file that this test alone has")
    assert "\\x1b[2J" in capsys.readouterr().err


def cases() -> list[Path]:
    folder = Path(__file__).resolve().parent.parent.parent / "shared" / "cases" / "hostile"
    kinds = ("tokenizer_normalizer_bomb", "sp_added_tokens_bomb", "genconf_eos", "rope")
    kinds += ("spm-1000812", "spm-1000814", "tokenizer_config-1000089", "tokenizer_config-1000979")
    kinds += ("config_json-1000114", "config_json-1000156")
    kinds += ("gguf_meta-1000139.gguf", "gguf_meta-1000413.gguf", "gguf_meta-1003006.gguf", "gguf_stopiteration.gguf")
    return [folder / kind for kind in kinds]


@pytest.mark.parametrize("path", cases(), ids=lambda path: path.name)
def test_the_cases_that_were_handed_in_end_in_an_error_of_ours(path: Path):
    if not path.exists():
        absent(f"no {path}: it holds inputs that once failed")
    with pytest.raises(PellucidError):
        use(path)


def use(path: Path) -> None:
    """A tokenizer is asked for ids; a model for what its files say of answers, and for two tokens."""
    from pellucid.auto import AutoTokenizer, load_model, open_model
    from pellucid.defaults import AnswerDefaults
    from pellucid.generate.generate import generate
    from pellucid.model.executor import TorchExecutor

    if not (path / "config.json").exists() and path.suffix != ".gguf":
        AutoTokenizer.from_pretrained(path).encode("a a")
        return
    checkpoint = open_model(path)
    AnswerDefaults.of(checkpoint.config, checkpoint.generation_config)
    decoder, tokenizer = load_model(str(path), device="cpu")
    generate(TorchExecutor(decoder), [tokenizer.encode("a a") or [1]], max_new_tokens=2)
