"""SentencePiece models, against sentencepiece itself and transformers' Llama tokenizer."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pellucid.base.errors import TokenizerError
from pellucid.text.load import load_tokenizer
from pellucid.text.readers.sentencepiece_model import SentencePieceTokenizer
from pellucid.text.readers.sentencepiece_proto import BYTE, CONTROL, NORMAL, UNKNOWN, build_model, read_pieces
from pellucid.text.tokenizer import Tokenizer

LLAMA = {
    "tokenizer_class": "LlamaTokenizer",
    "add_bos_token": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
}
TEXTS = ["Hello world", "", "大模型 and English", "龘\n\nx\t😀", "hi</s>there", "<s>a b</s>", "x y z ", "12345 don't"]


def folder(tmp_path: Path, shared: Path, config: dict[str, object]) -> Path:
    """A copy of Llama-2's vocabulary with a config beside it."""
    shutil.copy(shared / "llama2_tokenizer" / "tokenizer.model", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture(scope="module")
def llama(shared: Path) -> Tokenizer:
    return load_tokenizer(shared / "llama2_tokenizer" / "tokenizer.model")


@pytest.fixture(scope="module")
def reference(shared: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(shared / "llama2_tokenizer" / "tokenizer.model"))


def test_a_worked_example(llama: Tokenizer):
    assert llama("Hello 世界") == {"input_ids": [1, 15043, 29871, 30793, 30967], "attention_mask": [1] * 5}
    assert llama.tokenize("Hello 龘") == ["▁Hello", "▁", "<0xE9>", "<0xBE>", "<0x98>"]
    assert llama.decode([1, 15043, 29871, 236, 193, 155]) == "<s> Hello 龘"
    assert llama.decode([1, 15043], skip_special_tokens=True) == "Hello"
    assert (llama.bos_token_id, llama.eos_token_id, llama.unk_token_id, llama.pad_token_id) == (1, 2, 0, None)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \nab▁你龘😀")), max_size=40))
def test_any_text_is_encoded_and_decoded_as_sentencepiece_does(
    llama: Tokenizer, reference: sentencepiece.SentencePieceProcessor, text: str
):
    if any(token in text for token in llama.all_special_tokens):
        return
    ids = llama.encode(text, add_special_tokens=False)
    assert ids == reference.encode(text)
    assert llama.decode(ids) == reference.decode(ids)
    assert llama(text, return_offsets_mapping=True).input_ids == [1, *ids]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.integers(3, 31999), max_size=20))
def test_any_pieces_are_decoded_as_sentencepiece_does(
    llama: Tokenizer, reference: sentencepiece.SentencePieceProcessor, ids: list[int]
):
    assert llama.decode(ids) == reference.decode(ids)


@pytest.mark.parametrize("text", TEXTS)
def test_llama_equals_transformers(tmp_path: Path, shared: Path, text: str):
    path = folder(tmp_path, shared, {**LLAMA, "legacy": True})
    ours, theirs = load_tokenizer(path), _transformers(path)
    ids = theirs(text)["input_ids"]
    assert ours(text).input_ids == ids
    for skip in (False, True):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert ours.padding_side == theirs.padding_side == "left"
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours("a b", "c").input_ids == theirs("a b", "c")["input_ids"]


@cache
def _transformers(path: Path):
    return AutoTokenizer.from_pretrained(path)


def test_runs_of_spaces_are_sentencepiece_s(llama: Tokenizer, reference: sentencepiece.SentencePieceProcessor):
    """transformers 5 merges in the order of ids, and drops one leading space; Llama was trained by scores, on both."""
    for text in [" a", "  a  b ", "x  y   z    ", "\n    def f():\n        return 1"]:
        assert llama.encode(text, add_special_tokens=False) == reference.encode(text)
    assert llama.tokenize("x  y") == ["▁x", "▁", "▁y"]


def test_without_legacy_only_the_text_s_beginning_gets_a_space(tmp_path: Path, shared: Path):
    path = folder(tmp_path, shared, {**LLAMA, "legacy": False})
    text = "hi</s>there"
    assert (
        load_tokenizer(path).tokenize(text)
        == ["▁hi", "</s>", "there"]
        == AutoTokenizer.from_pretrained(path).tokenize(text)
    )


def test_bos_and_eos_follow_the_config(tmp_path: Path, shared: Path):
    tokenizer = load_tokenizer(folder(tmp_path, shared, {**LLAMA, "add_bos_token": False, "add_eos_token": True}))
    assert tokenizer.encode("a") == [263, 2]
    assert tokenizer.num_special_tokens_to_add() == 1
    assert tokenizer.num_special_tokens_to_add(pair=True) == 2


def test_added_tokens_of_the_config_are_cut_out_first(tmp_path: Path, shared: Path):
    added = {
        "32000": {"content": "<|im_start|>", "special": True},
        "32002": {"content": "<tool>", "special": False, "normalized": False},
    }
    tokenizer = load_tokenizer(folder(tmp_path, shared, {**LLAMA, "added_tokens_decoder": added}))
    ids = tokenizer.encode("<|im_start|>user<tool>", add_special_tokens=False)
    assert ids == [32000, 1404, 32002]
    assert len(tokenizer) == 32003
    assert tokenizer.decode(ids) == "<|im_start|> user<tool>"
    assert tokenizer.decode([32001]) == ""  # an id between added tokens that is none itself


def test_a_piece_of_bytes_points_at_its_byte(llama: Tokenizer):
    spans = [(piece.token, piece.byte_range, piece.char_range) for piece in llama.pieces("a龘b")]
    assert spans == [
        ("▁a", (0, 1), (0, 1)),
        ("<0xE9>", (1, 2), (1, 2)),
        ("<0xBE>", (2, 3), (1, 2)),
        ("<0x98>", (3, 4), (1, 2)),
        ("b", (4, 5), (2, 3)),
    ]


@pytest.mark.parametrize("size", [0, 10, 100_000, 499_000])
def test_a_truncated_model_is_refused(tmp_path: Path, shared: Path, size: int):
    whole = (shared / "llama2_tokenizer" / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(whole[:size])
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        load_tokenizer(tmp_path)


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200))
def test_noise_is_no_model(data: bytes):
    with pytest.raises(TokenizerError):
        SentencePieceTokenizer(data, {}, "noise")


# --- the model files we write ----------------------------------------------------------------------------------------


def test_a_model_we_write_is_one_to_sentencepiece():
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    pieces += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    pieces += [
        ("▁", -1.0, NORMAL),
        ("a", -2.0, NORMAL),
        ("b", -3.0, NORMAL),
        ("ab", -0.5, NORMAL),
        ("▁ab", -0.75, NORMAL),
    ]
    model = build_model(
        pieces, unk_piece="<unk>", bos_piece="<s>", eos_piece="</s>", byte_fallback=True, add_dummy_prefix=True
    )
    processor = sentencepiece.SentencePieceProcessor()
    assert processor.LoadFromSerializedProto(model)
    assert (processor.unk_id(), processor.bos_id(), processor.eos_id(), processor.get_piece_size()) == (0, 1, 2, 264)
    assert processor.encode("ab  ba", out_type=str) == ["▁ab", "▁", "▁", "b", "a"]
    assert processor.encode("é", out_type=str) == ["▁", "<0xC3>", "<0xA9>"]
    assert processor.get_score(262) == -0.5


def test_read_pieces_reads_what_sentencepiece_wrote(reference: sentencepiece.SentencePieceProcessor):
    text = "Hello 龘 world"
    proto = reference.encode(text, out_type="proto")
    assert read_pieces(reference.encode(text, out_type="serialized_proto")) == [
        (piece.id, piece.begin, piece.end) for piece in proto.pieces
    ]
