"""The interface, against transformers' AutoTokenizer on real vocabularies."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import AutoTokenizer

from pellucid.base.errors import TokenizerError
from pellucid.text.added_tokens import AddedToken
from pellucid.text.load import load_tokenizer
from pellucid.text.pieces import Piece
from pellucid.text.readers.tokenizer_json import JsonTokenizer
from pellucid.text.tokenizer import Tokenizer

TEXTS = [
    "hello world",
    "",
    " ",
    "  two spaces\n\nand lines\t",
    "大模型令人头秃，but 混合 text 也行。",
    "龘 😀 👩‍👩‍👧 e\u0301 Å ½ ٣",
    "<|im_start|>user\nhi<|im_end|> <think>x</think>",
    "don't we'll I'M 12345 3.14",
    "a" * 300,
]


@pytest.fixture(scope="module", params=["minimind_tokenizer", "qwen3_tokenizer"])
def both(request: pytest.FixtureRequest, shared: Path) -> tuple[Tokenizer, Any]:
    """Ours and transformers' of one folder."""
    return load_tokenizer(shared / request.param), AutoTokenizer.from_pretrained(shared / request.param)


@pytest.fixture(scope="module")
def minimind(shared: Path) -> Tokenizer:
    return load_tokenizer(shared / "minimind_tokenizer")


def test_a_worked_example(minimind: Tokenizer):
    encoding = minimind("hello 世界")
    assert encoding == {"input_ids": [6170, 256, 1950], "attention_mask": [1, 1, 1]}
    assert str(encoding) == "{'input_ids': [6170, 256, 1950], 'attention_mask': [1, 1, 1]}"
    assert encoding.input_ids == encoding["input_ids"] == minimind.encode("hello 世界")
    assert minimind.tokenize("hello 世界") == ["hello", "Ġ", "ä¸ĸçķĮ"]
    assert minimind.decode([6170, 256, 1950]) == "hello 世界"
    with pytest.raises(AttributeError, match="it has input_ids, attention_mask"):
        _ = encoding.labels


@pytest.mark.parametrize("text", TEXTS)
def test_ids_offsets_tokens_and_decoding_equal_transformers(both: tuple[Tokenizer, Any], text: str):
    ours, theirs = both
    mine, reference = ours(text, return_offsets_mapping=True), theirs(text, return_offsets_mapping=True)
    assert dict(mine) == dict(reference)
    assert ours.tokenize(text) == theirs.tokenize(text)
    for skip in (False, True):
        assert ours.decode(mine.input_ids, skip_special_tokens=skip) == theirs.decode(
            mine.input_ids, skip_special_tokens=skip
        )
    tokens = ours.tokenize(text)
    assert ours.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_any_text_encodes_as_in_transformers(both: tuple[Tokenizer, Any], text: str):
    ours, theirs = both
    assert ours(text).input_ids == theirs(text)["input_ids"]


def test_vocabulary_and_special_tokens_equal_transformers(both: tuple[Tokenizer, Any]):
    ours, theirs = both
    assert (ours.vocab_size, len(ours)) == (theirs.vocab_size, len(theirs))
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids
    assert ours.added_tokens_encoder == theirs.added_tokens_encoder == ours.get_added_vocab()
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token) == (
        theirs.bos_token_id,
        theirs.eos_token_id,
        theirs.pad_token,
    )
    assert (ours.padding_side, ours.truncation_side, ours.model_max_length) == (
        "right",
        "right",
        theirs.model_max_length,
    )
    assert ours.convert_tokens_to_ids(["Ġ", "no such token"]) == theirs.convert_tokens_to_ids(["Ġ", "no such token"])
    assert ours.convert_ids_to_tokens([5, 6], skip_special_tokens=True) == theirs.convert_ids_to_tokens(
        [5, 6], skip_special_tokens=True
    )


@pytest.mark.parametrize(
    "options",
    [
        {"padding": True},
        {"padding": "longest", "padding_side": "left"},
        {"padding": "max_length", "max_length": 12},
        {"padding": True, "pad_to_multiple_of": 8},
        {"padding": True, "truncation": True, "max_length": 4},
        {"truncation": True, "max_length": 3},
        {"max_length": 3},
        {"truncation": False, "padding": False},
        {"padding": True, "return_offsets_mapping": True},
        {"padding": True, "return_attention_mask": False},
    ],
    ids=str,
)
def test_a_batch_is_padded_and_cut_as_in_transformers(both: tuple[Tokenizer, Any], options: dict[str, Any]):
    ours, theirs = both
    batch = ["one", "a longer text than that", "中文 too"]
    assert dict(ours(batch, **options)) == dict(theirs(batch, **options))


@pytest.mark.parametrize("strategy", [True, "longest_first", "only_first", "only_second"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("max_length", [6, 9, 20])
def test_a_pair_is_cut_as_in_transformers(
    both: tuple[Tokenizer, Any], strategy: bool | str, side: str, max_length: int
):
    ours, theirs = both
    ours.truncation_side = theirs.truncation_side = side
    options: dict[str, Any] = {"truncation": strategy, "max_length": max_length}
    for pair in [("a b c d e f g h", "k l m"), ("k l m", "a b c d e f g h"), ("a b c d e", "k l m n o")]:
        try:
            mine: Any = ours(*pair, **options).input_ids
        except TokenizerError:
            mine = None
        if mine is None:
            with pytest.raises(Exception, match="too short"):
                theirs(*pair, **options)
        else:
            assert mine == theirs(*pair, **options)["input_ids"]
            assert len(mine) == min(max_length, len(ours(*pair).input_ids))
    ours.truncation_side = theirs.truncation_side = "right"


@pytest.mark.parametrize("kind", ["np", "pt"])
def test_tables_of_numbers_have_a_batch_axis(minimind: Tokenizer, kind: str):
    table = minimind(["hello", "hello 世界"], padding=True, return_tensors=kind).input_ids
    assert isinstance(table, np.ndarray if kind == "np" else torch.Tensor)
    assert table.tolist() == [[6170, 0, 0], [6170, 256, 1950]]
    assert str(table.dtype).endswith("int64")
    assert minimind.encode("hello", return_tensors=kind).shape == (1, 1)
    assert minimind("", return_tensors=kind).input_ids.shape == (1, 0)
    assert minimind([], return_tensors=kind).input_ids.shape[0] == 0


def test_an_encoding_moves_to_a_device_and_unpacks(minimind: Tokenizer):
    encoding = minimind("hello", return_tensors="pt").to("cpu")
    assert encoding.input_ids.device.type == "cpu"
    assert list({**encoding}) == ["input_ids", "attention_mask"]


def test_ragged_rows_are_no_table(minimind: Tokenizer):
    with pytest.raises(TokenizerError, match=r"differ in length[\s\S]*padding=True"):
        minimind(["hello", "hello 世界"], return_tensors="np")


def test_pad_collates_what_was_encoded_before(both: tuple[Tokenizer, Any]):
    ours, theirs = both
    rows = [ours("one"), ours("a longer text")]
    mine, reference = ours.pad(rows, return_tensors="np"), theirs.pad([dict(row) for row in rows], return_tensors="np")
    for name in reference:
        np.testing.assert_array_equal(mine[name], reference[name])
    assert dict(ours.pad({"input_ids": [[1], [1, 2]]})) == dict(theirs.pad({"input_ids": [[1], [1, 2]]}))


def test_decoding_takes_arrays_batches_and_single_ids(both: tuple[Tokenizer, Any]):
    ours, theirs = both
    table = ours(["hello world", "大模型"], padding=True, return_tensors="np").input_ids
    assert ours.batch_decode(table) == ours.decode(table) == theirs.batch_decode(table)
    assert ours.decode(torch.tensor(table[0])) == theirs.decode(table[0])
    assert ours.decode(300) == theirs.decode(300)
    assert ours.decode([]) == ""


def test_tokens_can_be_added_to_every_backend(shared: Path):
    for path in (
        "minimind_tokenizer",
        "llama2_tokenizer/tokenizer.model",
        "chatglm3_tokenizer",
        "stories260K/tok512.bin",
    ):
        tokenizer = load_tokenizer(shared / path)
        size = len(tokenizer)
        assert tokenizer.add_tokens(["<new>", "<new>"]) == 1
        assert tokenizer.add_special_tokens({"pad_token": "<|pad|>", "additional_special_tokens": ["<x>"]}) == 2
        assert tokenizer.convert_tokens_to_ids(["<new>", "<|pad|>", "<x>"]) == [size, size + 1, size + 2]
        assert (len(tokenizer), tokenizer.pad_token_id) == (size + 3, size + 1)
        ids = tokenizer.encode("a<new>b<x>c", add_special_tokens=False)
        assert [i for i in ids if i >= size] == [size, size + 2]
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "a<new>bc"
        assert "<x>" in tokenizer.decode(ids)


def test_special_tokens_can_be_renamed(minimind: Tokenizer, shared: Path):
    tokenizer = load_tokenizer(shared / "llama2_tokenizer" / "tokenizer.model")
    assert tokenizer.pad_token is None
    assert tokenizer.pad_token_id is None
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer(["a", "a b"], padding=True).input_ids[0][-1] == tokenizer.eos_token_id
    tokenizer.pad_token_id = 0
    assert tokenizer.pad_token == "<unk>"
    with pytest.raises(TokenizerError, match="no such special token"):
        tokenizer.add_special_tokens({"nonsense_token": "x"})


def test_added_tokens_strip_and_keep_to_words(shared: Path):
    tokenizer = load_tokenizer(shared / "llama2_tokenizer" / "tokenizer.model")
    tokenizer.add_tokens([AddedToken("<m>", lstrip=True, rstrip=True), AddedToken("word", single_word=True)])
    assert tokenizer.tokenize("a  <m>\n b") == ["▁a", "<m>", "▁b"]
    assert tokenizer.tokenize("word words") == ["word", "▁", "▁words"]
    assert [piece.byte_range for piece in tokenizer.pieces("a  <m>\n b")] == [(0, 1), (1, 8), (8, 9)]


# --- pieces ----------------------------------------------------------------------------------------------------------


def test_pieces_tell_bytes_and_characters_of_a_split_character(minimind: Tokenizer):
    assert minimind.pieces("a 龘") == [
        Piece(100, "a", "a", (0, 1), (0, 1)),
        Piece(256, "Ġ", " ", (1, 2), (1, 2)),
        Piece(2519, "é¾", "龘", (2, 4), (2, 3)),
        Piece(282, "ĺ", "龘", (4, 5), (2, 3)),
    ]


def test_pieces_of_a_normalized_text_point_into_the_original(shared: Path):
    backend = tokenizers.Tokenizer.from_file(str(shared / "minimind_tokenizer" / "tokenizer.json"))
    backend.normalizer = normalizers.NFC()
    pieces = JsonTokenizer(backend, {}, "test").pieces("xe\u0301 龘!")  # NFC makes é of the two characters
    assert [(piece.text, piece.byte_range) for piece in pieces[:2]] == [("x", (0, 1)), ("e\u0301", (1, 4))]
    assert [piece.byte_range for piece in pieces[2:]] == [(4, 5), (5, 7), (7, 8), (8, 9)]


def test_special_tokens_around_a_text_stand_for_none_of_it(shared: Path):
    pieces = load_tokenizer(shared / "llama2_tokenizer" / "tokenizer.model").pieces("hi</s>", add_special_tokens=True)
    assert [(piece.token, piece.byte_range) for piece in pieces] == [("<s>", (0, 0)), ("▁hi", (0, 2)), ("</s>", (2, 6))]


PIECE_VOCABULARIES = [
    "minimind_tokenizer",
    "llama2_tokenizer/tokenizer.model",
    "chatglm3_tokenizer",
    "stories260K/tok512.bin",
]


@pytest.mark.parametrize("path", PIECE_VOCABULARIES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \n▁a你龘😀")), max_size=24))
def test_pieces_tile_the_text(shared: Path, path: str, text: str):
    """No normalization in these vocabularies: every byte belongs to exactly one piece."""
    tokenizer = _loaded(shared / path)
    pieces = tokenizer.pieces(text)
    at = 0
    for piece in pieces:
        first, last = piece.byte_range
        assert first == at
        start, end = piece.char_range
        assert piece.text == text[start:end]
        assert len(text[:start].encode()) <= first <= last <= len(text[:end].encode())
        at = last
    assert at == len(text.encode())
    assert [piece.id for piece in pieces] == tokenizer.encode(text, add_special_tokens=False)


@cache
def _loaded(path: Path) -> Tokenizer:
    return load_tokenizer(path)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["minimind_tokenizer", "llama2_tokenizer/tokenizer.model", "chatglm3_tokenizer", "stories260K/tok512.bin"]
)
def test_text_that_is_no_text_is_refused(shared: Path, path: str):
    tokenizer = load_tokenizer(shared / path)
    for wrong, message in [
        (b"bytes", "decode the bytes first"),
        ("half \ud83d a pair", "character 5"),
        (5, "must be a string"),
        (None, "string"),
    ]:
        with pytest.raises(TokenizerError, match=message):
            tokenizer.encode(wrong)  # pyright: ignore[reportArgumentType]
        with pytest.raises(TokenizerError, match=message):
            tokenizer(["fine", wrong])  # pyright: ignore[reportArgumentType]
        if not isinstance(wrong, int | None):
            with pytest.raises(TokenizerError, match=message):
                tokenizer.pieces(wrong)  # pyright: ignore[reportArgumentType]
    for wrong in ([-1], [5, -100], [2**32], [2**70], ["a"], [1.5], [True], [None], -1, 1.5):
        with pytest.raises(TokenizerError):
            tokenizer.decode(wrong)
        with pytest.raises(TokenizerError):
            tokenizer.convert_ids_to_tokens(wrong)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "sideways"},
        {"truncation": "somehow"},
        {"return_tensors": "tf"},
        {"padding": True, "padding_side": "top"},
        {"max_length": -1},
        {"text_pair": ["a list"]},
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_are_refused(minimind: Tokenizer, options: dict[str, Any]):
    with pytest.raises(TokenizerError):
        minimind("text", **options)


def test_padding_without_a_padding_token_names_the_cure(shared: Path):
    with pytest.raises(TokenizerError, match=r"tokenizer\.pad_token = tokenizer\.eos_token"):
        load_tokenizer(shared / "llama2_tokenizer" / "tokenizer.model")(["a"], padding=True)


def test_special_tokens_longer_than_max_length_are_refused(shared: Path):
    with pytest.raises(TokenizerError, match="no room for the special tokens"):
        load_tokenizer(shared / "chatglm3_tokenizer")("a b c d", truncation=True, max_length=1)


def test_nothing_is_a_batch_of_nothing(minimind: Tokenizer):
    assert minimind([]) == {"input_ids": [], "attention_mask": []}
    assert minimind("") == {"input_ids": [], "attention_mask": []}


def test_the_file_s_own_truncation_does_not_cut(tmp_path: Path, shared: Path):
    shutil.copy(shared / "minimind_tokenizer" / "tokenizer.json", tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert len(load_tokenizer(tmp_path).encode("a b c d")) == 4
