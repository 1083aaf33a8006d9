"""Tokenizers written as GGUF: the same ids by our reader and by llama.cpp; what GGUF has no place for is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ggml
import pytest
import tokenizers
from test_gguf_out import run_llama_cpp
from tokenizers import decoders, models, normalizers, pre_tokenizers

from pellucid import AutoTokenizer
from pellucid.base.errors import TokenizerError
from pellucid.checkpoint.files.gguf import GGUFFile
from pellucid.checkpoint.files.gguf_write import write_gguf
from pellucid.text.gguf_out import PROBES, tokenizer_to_gguf
from pellucid.text.readers.byte_level_bpe import build_bpe, read_vocab
from pellucid.text.readers.gguf import tokenizer_from_gguf
from pellucid.text.readers.pre_tokenizers import PRE_TOKENIZERS
from pellucid.text.readers.tokenizer_json import JsonTokenizer

REAL = {
    "qwen3_tokenizer": "qwen2",
    "minimind_tokenizer": "gpt-2",
    "llama2_tokenizer/tokenizer.model": "default",
    "gguf_vocabs/ggml-vocab-gpt-2.gguf": "gpt-2",
    "gguf_vocabs/ggml-vocab-llama-spm.gguf": "default",
}


def vocabulary_file(path: Path, metadata: dict[str, Any]) -> Path:
    """A file of a tokenizer alone, as llama.cpp's tests have them."""
    architecture = {"general.architecture": "llama"}
    with open(path, "wb") as file:
        write_gguf(file, architecture | metadata, [])
    return path


@ggml.NEEDS
@pytest.mark.parametrize("name", REAL)
def test_llama_cpp_and_we_read_the_same_ids_from_what_is_written(name: str, shared: Path, tmp_path: Path):
    """Of texts without NFC's letters, which llama.cpp does not compose."""
    tokenizer = AutoTokenizer.from_pretrained(shared / name)
    metadata = tokenizer_to_gguf(tokenizer, len(tokenizer), [])
    assert metadata["tokenizer.ggml.pre"] == REAL[name]
    path = vocabulary_file(tmp_path / "x.gguf", metadata)
    again = tokenizer_from_gguf(GGUFFile(path).metadata)
    texts = [text for text in PROBES if "\u0301" not in text and "\x00" not in text]
    run_llama_cpp(tmp_path, {"ids": {"path": str(path), "texts": texts}})
    for text, theirs in zip(texts, json.loads((tmp_path / "ids.json").read_text()), strict=True):
        ours = tokenizer.encode(text)
        assert again.encode(text) == ours
        assert theirs == ours, text
    assert again.chat_template == tokenizer.chat_template


def test_the_name_of_every_pattern_is_found_again(shared: Path):
    """Of names that cut alike, any; llama.cpp's own fallback, by which it warns, is never chosen."""
    from pellucid.text.gguf_out import pre_tokenizer_name

    vocab = read_vocab(shared / "gpt2_bpe" / "gpt2_vocab.cs336.json")
    for name, pre in PRE_TOKENIZERS.items():
        if not pre.bytes or name == "default":
            continue
        found = pre_tokenizer_name(JsonTokenizer(build_bpe(vocab, [], pre, "x"), {}, "x"))
        assert found != "default"
        one, other = PRE_TOKENIZERS[found], pre
        assert (one.patterns, one.nfc) == (other.patterns, other.nfc) or one.ignore_merges == other.ignore_merges


def byte_level(**parts: Any) -> JsonTokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: place for place, token in enumerate([*alphabet, "ab", "<s>", "</s>"])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b")]))
    backend.pre_tokenizer = parts.get("pre", pre_tokenizers.ByteLevel(add_prefix_space=False))
    backend.decoder = decoders.ByteLevel()
    if "normalizer" in parts:
        backend.normalizer = parts["normalizer"]
    return JsonTokenizer(backend, parts.get("config", {"eos_token": "</s>"}), "here")


def test_rows_beyond_the_tokenizer_are_tokens_that_are_never_used():
    metadata = tokenizer_to_gguf(byte_level(), 300)
    assert len(metadata["tokenizer.ggml.tokens"]) == 300
    assert metadata["tokenizer.ggml.tokens"][-1] == "[PAD299]"
    assert metadata["tokenizer.ggml.token_type"][-1] == 5


def test_tokens_beyond_the_rows_are_left_out_and_told(capsys: pytest.CaptureFixture[str]):
    tokenizer = byte_level(config={"eos_token": "</s>", "additional_special_tokens": ["<late>"]})
    metadata = tokenizer_to_gguf(tokenizer, 259)
    assert len(metadata["tokenizer.ggml.tokens"]) == 259
    assert "the last 1 tokens have no row" in capsys.readouterr().err
    with pytest.raises(TokenizerError, match="special token has no row"):
        tokenizer_to_gguf(tokenizer, 258)


def test_ends_of_an_answer_come_along():
    metadata = tokenizer_to_gguf(byte_level(), 259, [258, 257, 256])
    ids = {name: metadata[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")}
    assert ids == {"eos": 258, "eot": 257, "eom": 256}


HYPHENS = pre_tokenizers.Sequence([pre_tokenizers.Split("-", "isolated"), pre_tokenizers.ByteLevel(False)])
REFUSED = {
    "a pattern of its own": (
        {"pre": HYPHENS},
        "no name for the pattern",
    ),
    "small letters": ({"normalizer": normalizers.Lowercase()}, "no name for the pattern"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_gguf_has_no_place_for_is_refused(case: str):
    parts, said = REFUSED[case]
    with pytest.raises(TokenizerError, match=said):
        tokenizer_to_gguf(byte_level(**parts), 259)


def test_a_tokenizer_of_another_kind_is_refused(shared: Path):
    tokenizer = AutoTokenizer.from_pretrained(shared / "chatglm3_tokenizer")
    with pytest.raises(TokenizerError, match="GGUF has no tokenizer like this one"):
        tokenizer_to_gguf(tokenizer, 65024)
