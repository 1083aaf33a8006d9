"""llama2.c's tokenizer files, against run.c's encoder written out here step by step."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.base.errors import TokenizerError
from pellucid.text.detokenizer import IncrementalDetokenizer
from pellucid.text.load import load_tokenizer
from pellucid.text.readers.llama2c import load_llama2c
from pellucid.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(stories: Path) -> Tokenizer:
    return load_tokenizer(stories / "tok512.bin", vocab_size=512)


@pytest.fixture(scope="module")
def vocabulary(stories: Path) -> list[tuple[bytes, float]]:
    return read_file((stories / "tok512.bin").read_bytes())


def read_file(data: bytes) -> list[tuple[bytes, float]]:
    tokens, at = [], 4
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        tokens.append((data[at + 8 : at + 8 + length], score))
        at += 8 + length
    return tokens


def run_c_encode(vocabulary: list[tuple[bytes, float]], text: str) -> list[int]:
    """run.c's ``encode`` with bos: look up characters, then merge the best pair until none is left."""
    ids = {token: i for i, (token, _) in enumerate(vocabulary)}
    tokens = [ids[b" "]] if text else []
    for character in text:
        data = character.encode()
        tokens += [ids[data]] if data in ids else [byte + 3 for byte in data]
    while True:
        best, place = -1e10, None
        for i in range(len(tokens) - 1):
            merged = ids.get(vocabulary[tokens[i]][0] + vocabulary[tokens[i + 1]][0])
            if merged is not None and vocabulary[merged][1] > best:
                best, place = vocabulary[merged][1], i
        if place is None:
            return [1, *tokens]
        tokens[place : place + 2] = [ids[vocabulary[tokens[place]][0] + vocabulary[tokens[place + 1]][0]]]


def run_c_decode(vocabulary: list[tuple[bytes, float]], ids: list[int]) -> str:
    """run.c's ``decode`` of each token after the first, as its main loop prints them."""
    data = b""
    for previous, token in pairwise(ids):
        piece = vocabulary[token][0]
        if previous == 1:
            piece = piece.removeprefix(b" ")
        data += bytes([token - 3]) if 3 <= token < 259 else piece
    return data.decode("utf-8", "replace")


def test_a_worked_example(tokenizer: Tokenizer):
    assert tokenizer("Once upon a time") == {"input_ids": [1, 403, 407, 261, 378], "attention_mask": [1] * 5}
    assert tokenizer.decode([1, 403, 407, 261, 378], skip_special_tokens=True) == "Once upon a time"
    assert (
        tokenizer.decode([403, 407], skip_special_tokens=True) == " Once upon"
    )  # no BOS before: the space is the text's


def test_the_published_story_is_read_back(tokenizer: Tokenizer, vocabulary: list[tuple[bytes, float]], stories: Path):
    story = (stories / "greedy_257.txt").read_text()
    ids = tokenizer.encode(story)
    assert tokenizer.decode(ids, skip_special_tokens=True) == story
    assert ids[:200] == run_c_encode(vocabulary, story)[:200]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(
        alphabet=st.one_of(
            st.characters(codec="utf-8", exclude_characters="\0"), st.sampled_from("  the andOnce\n▁你<s>")
        ),
        max_size=30,
    )
)
def test_any_text_is_encoded_as_run_c_does(tokenizer: Tokenizer, vocabulary: list[tuple[bytes, float]], text: str):
    ids = tokenizer.encode(text)
    assert ids == run_c_encode(vocabulary, text)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text == run_c_decode(vocabulary, ids)
    assert [piece.id for piece in tokenizer.pieces(text)] == ids[1:]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.integers(259, 511), max_size=20))
def test_any_ids_are_decoded_as_run_c_does(tokenizer: Tokenizer, vocabulary: list[tuple[bytes, float]], ids: list[int]):
    assert tokenizer.decode([1, *ids], skip_special_tokens=True) == run_c_decode(vocabulary, [1, *ids])


def test_an_answer_goes_on_from_its_prompt(tokenizer: Tokenizer):
    prompt, answer = tokenizer.encode("Once upon"), [261, 378]
    detokenizer = IncrementalDetokenizer(tokenizer, prompt_ids=prompt)
    assert "".join(map(detokenizer.push, answer)) == " a time"


def test_llama_2_s_own_file_equals_its_sentencepiece_model(shared: Path):
    flat, model = (
        load_tokenizer(shared / "llama2_tokenizer" / "tokenizer.bin"),
        load_tokenizer(shared / "llama2_tokenizer" / "tokenizer.model"),
    )
    for text in ["Hello world", "大模型令人头秃 x", (shared / "text_misc" / "wizard_of_oz.txt").read_text()[:5000]]:
        assert flat(text) == model(text)


def test_special_tokens_in_a_text_are_text(tokenizer: Tokenizer):
    assert tokenizer.decode(tokenizer.encode("</s>"), skip_special_tokens=True) == "</s>"


# --- files that are wrong --------------------------------------------------------------------------------------------


def written(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "tok.bin").write_bytes(data)
    return tmp_path / "tok.bin"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:0], "header is missing"),
        (lambda data: data[:3], "header is missing"),
        (lambda data: struct.pack("<i", -1) + data[4:], "longest token"),
        (lambda data: struct.pack("<i", 2**31 - 1) + data[4:], "longest token"),
        (lambda data: data[:-1], "impossible length"),
        (lambda data: data[:-15], "cut off|impossible length"),
        (lambda data: data[:8] + struct.pack("<i", 2**31 - 1) + data[12:], "impossible length"),
        (lambda data: data[:8] + struct.pack("<i", -5) + data[12:], "impossible length"),
        (lambda data: data[:4] + struct.pack("<f", float("nan")) + data[8:], "no number"),
        (lambda data: data[:2000], "256 byte tokens|cut off|impossible|stand for a byte"),
        (lambda data: data.replace(b"<0x41>", b"<0x99>"), "must stand for a byte"),
        (lambda data: data.replace(b" the", b"\xff\xff\xff\xff"), "is not UTF-8"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, stories: Path, change, message: str):
    with pytest.raises(TokenizerError, match=message):
        load_llama2c(written(tmp_path, change((stories / "tok512.bin").read_bytes())))


def test_another_model_s_tokenizer_is_refused(stories: Path):
    with pytest.raises(TokenizerError, match=r"another model's.*expected 32000 tokens, received 512"):
        load_tokenizer(stories / "tok512.bin", vocab_size=32000)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_flipped_bits_are_an_error_or_a_tokenizer(
    stories: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    original = bytearray((stories / "tok512.bin").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        original[data.draw(st.integers(0, len(original) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = written(tmp_path_factory.getbasetemp(), bytes(original))
    try:
        load_llama2c(path).encode("Once upon a time")
    except TokenizerError:
        return
