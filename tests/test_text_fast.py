"""Whole corpora by a faster library: taken only where it gives `tokenizers`' ids, left where it does not."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.base.errors import TokenizerError
from pellucid.checkpoint.files.gguf import GGUFFile
from pellucid.text.load import load_tokenizer
from pellucid.text.readers import fast
from pellucid.text.readers.byte_level import CHAR_OF_BYTE
from pellucid.text.readers.gguf import tokenizer_from_gguf
from pellucid.text.readers.tokenizer_json import JsonTokenizer
from pellucid.train.data.shards import make_shards

pytest.importorskip("fastokens", reason="no fastokens for this machine; `tokenizers` does its work")


@pytest.fixture(scope="module")
def minimind(shared: Path) -> JsonTokenizer:
    tokenizer = load_tokenizer(shared / "minimind_tokenizer")
    assert isinstance(tokenizer, JsonTokenizer)
    return tokenizer


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "WORTH_IT", 0)


class Other:
    """A fast library that is wrong about one character."""

    def __init__(self, right: Any, wrong: str) -> None:
        self.right, self.wrong = right, wrong

    def encode_batch_flat(self, texts: Sequence[str], **options: Any) -> tuple[bytes, bytes]:
        return self.right.encode_batch_flat([text.replace(self.wrong, "x") for text in texts], **options)


def with_library(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    real = sys.modules["fastokens"].Tokenizer
    made = SimpleNamespace(from_json_str=lambda text: Other(real.from_json_str(text), wrong))
    monkeypatch.setitem(sys.modules, "fastokens", SimpleNamespace(Tokenizer=made))  # pyright: ignore


@pytest.mark.parametrize("name", ["qwen3_tokenizer", "minimind_tokenizer", "gpt-2"])
def test_whole_books_have_the_ids_of_tokenizers(shared: Path, name: str):
    if name == "gpt-2":
        tokenizer = tokenizer_from_gguf(GGUFFile(shared / "gguf_vocabs" / "ggml-vocab-gpt-2.gguf").metadata)
    else:
        tokenizer = load_tokenizer(shared / name)
    assert isinstance(tokenizer, JsonTokenizer)
    encoder = tokenizer._fast
    assert encoder is not None
    texts = [
        (shared / path).read_text(encoding="utf-8")
        for path in ("text_chinese/hongloumeng.txt", "text_shakespeare/input.txt")
    ]
    texts += [text[start : start + 3000] for text in texts for start in range(0, 60_000, 2999)]
    ids, starts = encoder.encode(texts)
    expected = tokenizer.encode_texts(texts, None, add_special_tokens=False, details=False)
    for place, one in enumerate(expected):
        assert ids[starts[place] : starts[place + 1]].tolist() == one.ids


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("  \nab'1漢<|>"))), max_size=5
    )
)
def test_any_texts_have_the_ids_of_tokenizers(minimind: JsonTokenizer, texts: list[str]):
    assert minimind._fast is not None
    ids, starts = minimind._fast.encode(texts)
    expected = minimind.encode_texts(texts, None, add_special_tokens=False, details=False)
    assert [ids[a:b].tolist() for a, b in pairwise(starts)] == [one.ids for one in expected]


@pytest.fixture(scope="module", params=["digits", "split"])
def single_digits(minimind: JsonTokenizer, request: pytest.FixtureRequest) -> tuple[Any, fast.FastEncoder]:
    """As SmolLM's and StarCoder's: digits are cut out first, and no token has the bytes 04, F1 and F2."""
    document = json.loads(minimind._backend.to_str())
    cut = {"type": "Digits", "individual_digits": True}
    if request.param == "split":
        cut = {"type": "Split", "pattern": {"Regex": r"\p{N}"}, "behavior": "Isolated", "invert": False}
    rest = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [cut, rest]}
    for byte in (0x04, 0xF1, 0xF2):
        vocab = document["model"]["vocab"]
        vocab[f"unused {byte}"] = vocab.pop(CHAR_OF_BYTE[byte])
    backend = tokenizers.Tokenizer.from_str(json.dumps(document))
    encoder = fast.fast_encoder(backend)
    assert encoder is not None
    assert {0x04, 0xF1, 0xF2} <= set(encoder._unknown)  # it is the one expression that was taken
    return backend, encoder


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("  \nab'12½漢\x04\U00080000<|>"))),
        max_size=5,
    )
)
def test_single_digits_and_bytes_without_a_token_have_the_ids_of_tokenizers(
    single_digits: tuple[Any, fast.FastEncoder], texts: list[str]
):
    backend, encoder = single_digits
    ids, starts = encoder.encode(texts)
    expected = [one.ids for one in backend.encode_batch_fast(texts, add_special_tokens=False)]
    assert [ids[a:b].tolist() for a, b in pairwise(starts)] == expected


@pytest.mark.usefixtures("always")
def test_a_batch_is_each_text_s_own_ids(shared: Path):
    texts = ["Hello <|im_start|>world", "", "大模型 123", "e\u0301"]
    for name in ("minimind_tokenizer", "qwen3_tokenizer", "llama2_tokenizer", "chatglm3_tokenizer"):
        tokenizer = load_tokenizer(shared / name)
        for special in (True, False):
            batch = tokenizer.encode_batch(texts, add_special_tokens=special)
            assert [one.tolist() for one in batch] == [
                tokenizer.encode(text, add_special_tokens=special) for text in texts
            ]
        assert tokenizer.encode_batch([]) == []
    with pytest.raises(TokenizerError, match="surrogate"):
        tokenizer.encode_batch(["\ud800"])


def test_a_library_that_gives_other_ids_is_left(minimind: JsonTokenizer, monkeypatch: pytest.MonkeyPatch):
    for wrong in ("a", "漢", "\u0085"):
        with_library(monkeypatch, wrong)
        assert fast.fast_encoder(minimind._backend) is None, wrong
    monkeypatch.setitem(sys.modules, "fastokens", None)  # as where it is not installed
    assert fast.fast_encoder(minimind._backend) is None


@pytest.mark.usefixtures("always")
def test_ids_that_differ_only_in_the_corpus_are_made_anew(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A character that the probe does not know, found in the second source: the first is not kept either."""
    (tmp_path / "a.txt").write_text("plain words\n" * 50)
    (tmp_path / "b.txt").write_text("龘 " * 400)
    sources, said = [tmp_path / "a.txt", tmp_path / "b.txt"], []
    expected = make_shards(tmp_path / "slow", sources, load_tokenizer(shared / "llama2_tokenizer"))
    tokenizer = load_tokenizer(shared / "minimind_tokenizer")
    monkeypatch.setattr(fast, "WORTH_IT", 2**40)
    expected = make_shards(tmp_path / "slow", sources, load_tokenizer(shared / "minimind_tokenizer"))
    monkeypatch.setattr(fast, "WORTH_IT", 0)
    with_library(monkeypatch, "龘")
    got = make_shards(tmp_path / "fast", sources, tokenizer, progress=said.append)
    assert any("other ids" in line for line in said)
    for number in range(2):
        assert np.array_equal(got.tokens(number), expected.tokens(number))


def test_shards_made_fast_are_those_made_slowly(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    book = shared / "text_misc" / "wizard_of_oz.txt"
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in ["a", "", "大模型", "x y"] * 50))
    made = []
    for name, worth in (("slow", 2**40), ("fast", 0)):
        monkeypatch.setattr(fast, "WORTH_IT", worth)
        made.append(make_shards(tmp_path / name, [book, lines], load_tokenizer(shared / "minimind_tokenizer")))
    for number in range(2):
        assert np.array_equal(made[0].tokens(number), made[1].tokens(number))
        assert np.array_equal(made[0].document_starts(number), made[1].document_starts(number))
    assert len(made[1].document_starts(1)) == 200


def test_added_tokens_make_the_encoder_anew(shared: Path):
    tokenizer = load_tokenizer(shared / "minimind_tokenizer")
    assert isinstance(tokenizer, JsonTokenizer)
    before = tokenizer._fast
    tokenizer.add_tokens(["<new>"])
    assert tokenizer._fast is not before
    assert tokenizer._fast is not None
    assert tokenizer._fast.encode(["a<new>"])[0].tolist() == tokenizer.encode("a<new>", add_special_tokens=False)
