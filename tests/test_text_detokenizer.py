"""The incremental detokenizer: whole characters only, and together exactly ``decode``."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from pellucid.base.errors import TokenizerError, UnsupportedError
from pellucid.checkpoint.files.gguf import GGUFFile
from pellucid.text.cleanup import StreamingCleanUp, StreamingReplace, clean_up_tokenization
from pellucid.text.detokenizer import IncrementalDetokenizer
from pellucid.text.load import load_tokenizer
from pellucid.text.readers.gguf import tokenizer_from_gguf
from pellucid.text.readers.tokenizer_json import JsonTokenizer
from pellucid.text.tokenizer import Tokenizer

BACKENDS: dict[str, Callable[[Path], Tokenizer]] = {
    "byte-level bpe": lambda data: load_tokenizer(data / "minimind_tokenizer"),
    "byte-level bpe with nfc": lambda data: load_tokenizer(data / "qwen3_tokenizer"),
    "sentencepiece": lambda data: load_tokenizer(data / "llama2_tokenizer" / "tokenizer.model"),
    "chatglm": lambda data: load_tokenizer(data / "chatglm3_tokenizer"),
    "llama2.c": lambda data: load_tokenizer(data / "stories260K" / "tok512.bin"),
    "gguf spm": lambda data: tokenizer_from_gguf(GGUFFile(data / "gguf_vocabs" / "ggml-vocab-llama-spm.gguf").metadata),
    "gguf bpe": lambda data: tokenizer_from_gguf(GGUFFile(data / "gguf_vocabs" / "ggml-vocab-gpt-2.gguf").metadata),
}
TEXTS = [
    "hello world",
    " two  spaces ",
    "你好，世界。龘",
    "👩‍👩‍👧 🇨🇳 e\u0301",
    "line\n\nline\t",
    "don 't stop , please .",
    "</s> <|im_end|> x",
    "▁ <0x41>",
]


@pytest.fixture(scope="module", params=BACKENDS)
def tokenizer(request: pytest.FixtureRequest, shared: Path) -> Tokenizer:
    return BACKENDS[request.param](shared)


@pytest.fixture(scope="module")
def table(tokenizer: Tokenizer) -> list[bytes]:
    return tokenizer.token_bytes()


def streamed(tokenizer: Tokenizer, ids: list[int], skip: bool) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=skip)
    return [*(detokenizer.push(i) for i in ids), detokenizer.flush()]


def test_a_character_split_over_tokens_comes_whole(shared: Path):
    tokenizer = load_tokenizer(shared / "minimind_tokenizer")
    ids = tokenizer.encode("a龘b")
    assert tokenizer.convert_ids_to_tokens(ids) == ["a", "é¾", "ĺ", "b"]
    assert streamed(tokenizer, ids, skip=True) == ["a", "", "龘", "b", ""]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("skip", [True, False])
def test_the_stream_of_a_text_is_its_decoding(tokenizer: Tokenizer, text: str, skip: bool):
    ids = tokenizer.encode(text)
    assert "".join(streamed(tokenizer, ids, skip)) == tokenizer.decode(ids, skip_special_tokens=skip)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), skip=st.booleans())
def test_the_stream_of_any_ids_is_their_decoding(tokenizer: Tokenizer, data: st.DataObject, skip: bool):
    """Any ids: broken characters, byte tokens, special tokens in the middle."""
    some = st.one_of(
        st.integers(0, min(len(tokenizer), 300) - 1),
        st.integers(0, len(tokenizer) - 1),
        st.sampled_from(tokenizer.all_special_ids),
    )
    ids = data.draw(st.lists(some, max_size=24))
    assert "".join(streamed(tokenizer, ids, skip)) == tokenizer.decode(ids, skip_special_tokens=skip)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40))
def test_the_stream_of_a_text_never_splits_a_character(tokenizer: Tokenizer, text: str):
    parts = streamed(tokenizer, tokenizer.encode(text), skip=True)
    assert "\ufffd" not in "".join(parts) or "\ufffd" in text
    assert "".join(parts) == tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True)


def test_after_a_prompt_a_piece_keeps_its_leading_space(shared: Path):
    tokenizer = load_tokenizer(shared / "llama2_tokenizer" / "tokenizer.model")
    prompt, answer = (
        tokenizer.encode("Once upon"),
        [tokenizer.convert_tokens_to_ids("▁a"), tokenizer.convert_tokens_to_ids("▁time")],
    )
    detokenizer = IncrementalDetokenizer(tokenizer, prompt_ids=prompt)
    assert [detokenizer.push(i) for i in answer] == [" a", " time"]


def test_an_id_beyond_the_vocabulary_has_no_text(tokenizer: Tokenizer):
    detokenizer = IncrementalDetokenizer(tokenizer)
    assert detokenizer.push(len(tokenizer) + 5) == ""
    with pytest.raises(TokenizerError, match="no token has this id"):
        detokenizer.push(-1)


@pytest.mark.parametrize("skip", [True, False])
def test_ids_beyond_the_vocabulary_change_no_text_around_them(tokenizer: Tokenizer, skip: bool):
    ids, beyond = tokenizer.encode("a 龘 b"), [len(tokenizer) + 3, 2**31, 2**32 - 1]
    padded = [*beyond, *(one for token_id in ids for one in (token_id, len(tokenizer) + 3)), *beyond]
    text = tokenizer.decode(ids, skip_special_tokens=skip)
    assert tokenizer.decode(padded, skip_special_tokens=skip) == "".join(streamed(tokenizer, padded, skip)) == text
    assert tokenizer.batch_decode([padded, beyond], skip_special_tokens=skip) == [text, ""]


# --- runs: special tokens in their place, for who looks for text in which they count ---------------------------------


def runs_of(tokenizer: Tokenizer, ids: list[int], skip: bool = True) -> list[tuple[str, bool]]:
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=skip)
    runs = [(run.text, run.shown) for token_id in ids for run in detokenizer.push_runs(token_id)]
    rest = detokenizer.flush()
    return [*runs, (rest, True)] if rest else runs


def test_a_skipped_special_token_stands_where_it_was_written(shared: Path):
    tokenizer = load_tokenizer(shared / "minimind_tokenizer")
    ids = tokenizer.encode("Bye<|im_end|>\n<|im_start|>x")
    runs = runs_of(tokenizer, ids)
    assert "".join(text for text, _ in runs) == "Bye<|im_end|>\n<|im_start|>x"
    assert [text for text, shown in runs if not shown] == ["<|im_end|>", "<|im_start|>"]
    assert all(shown for _, shown in runs_of(tokenizer, ids, skip=False))


def test_a_newline_in_byte_tokens_comes_before_the_special_token_that_follows_it():
    """Llama's vocabularies spell it <0x0A>, and hold it back: the next token may belong to the same character."""
    vocab = {token: i for i, token in enumerate(["<unk>", "a", "<0x0A>", "<0xE4>", "<0xBD>", "<0xA0>"])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.decoder = decoders.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = JsonTokenizer(backend, {"eos_token": "</s>"}, "test")
    assert runs_of(tokenizer, [1, 2, 6, 1]) == [("a", True), ("\n", True), ("</s>", False), ("a", True)]
    # half a character goes on after a special token, as decode(skip_special_tokens=True) joins it
    assert runs_of(tokenizer, [3, 6, 4, 5]) == [("</s>", False), ("你", True)]
    assert tokenizer.decode([3, 6, 4, 5], skip_special_tokens=True) == "你"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), text=st.text(max_size=30))
def test_the_shown_runs_are_the_stream_and_the_hidden_ones_the_special_tokens(
    tokenizer: Tokenizer, data: st.DataObject, text: str
):
    ids = tokenizer.encode(text)
    for token_id in data.draw(st.lists(st.sampled_from(tokenizer.all_special_ids), max_size=3)):
        ids.insert(data.draw(st.integers(0, len(ids))), token_id)
    runs = runs_of(tokenizer, ids)
    assert "".join(part for part, shown in runs if shown) == tokenizer.decode(ids, skip_special_tokens=True)
    hidden = [tokenizer.convert_ids_to_tokens(i) for i in ids if i in tokenizer.special_ids]
    assert [part for part, shown in runs if not shown] == hidden


def test_a_token_costs_the_same_late_as_early(tokenizer: Tokenizer):
    ids = tokenizer.encode("Once upon a time, 从前 there was a 龘. ", add_special_tokens=False) * 600
    detokenizer = IncrementalDetokenizer(tokenizer)
    thirds = []
    for start in range(0, len(ids), len(ids) // 3):
        begun = time.perf_counter()
        for token_id in ids[start : start + len(ids) // 3]:
            detokenizer.push(token_id)
        thirds.append(time.perf_counter() - begun)
    assert thirds[2] < 5 * thirds[0] + 0.01  # decoding from the start each time makes it hundreds of times slower


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_tokens_add_to_a_text_that_has_begun_is_their_bytes(
    tokenizer: Tokenizer, table: list[bytes], data: st.DataObject
):
    assert len(table) >= len(tokenizer)
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) + 2), max_size=12))
    ids = [i for i in ids if i not in tokenizer.special_ids]
    detokenizer = IncrementalDetokenizer(tokenizer, prompt_ids=tokenizer.encode("a"))
    text = "".join([*map(detokenizer.push, ids), detokenizer.flush()])
    spelled = b"".join(table[i] if i < len(table) else b"" for i in ids)
    try:
        assert text == spelled.decode("utf-8")
    except UnicodeDecodeError:
        assert "\ufffd" in text


# --- decoders of tokenizer.json: each against the library's own ------------------------------------------------------

DECODERS = {
    "none": None,
    "byte level": decoders.ByteLevel(),
    "llama": decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "gemma": decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
    "metaspace": decoders.Metaspace(),
    "metaspace, never": decoders.Metaspace(prepend_scheme="never"),
    "word piece": decoders.WordPiece(),
    "word piece, not cleaned": decoders.WordPiece(cleanup=False),
    "bpe with suffix": decoders.BPEDecoder(),
    "strip each": decoders.Sequence([decoders.Strip(" ", 1, 0), decoders.Replace("a", "bb")]),
    "fused, then replaced": decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "c")]),
    "ctc": decoders.CTC(),
}
TOKENS = [
    "a",
    "b",
    "▁a",
    "▁",
    "▁▁b",
    "##b",
    "a</w>",
    " ",
    " .",
    "'s",
    "n't",
    "é¾",
    "ĺ",
    "Ġ",
    "<0xE9>",
    "<0xBE>",
    "<0x98>",
    "<0x41>",
    "<pad>",
    "你",
    "|",
]


@settings(max_examples=150, deadline=None)
@given(tokens=st.lists(st.sampled_from(TOKENS), max_size=12), name=st.sampled_from(sorted(DECODERS)))
def test_every_decoder_streams_as_the_library_decodes(tokens: list[str], name: str):
    backend = tokenizers.Tokenizer(models.WordLevel({token: i for i, token in enumerate(TOKENS)}, unk_token="a"))
    backend.decoder = DECODERS[name]  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = JsonTokenizer(backend, {}, name)
    ids = [TOKENS.index(token) for token in tokens]
    assert "".join(streamed(tokenizer, ids, skip=False)) == tokenizer.decode(ids)
    assert not ids or tokenizer.decode(ids) == backend.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("name", DECODERS)
def test_token_bytes_are_what_the_library_adds_for_a_token_in_the_middle(name: str):
    backend = tokenizers.Tokenizer(models.WordLevel({token: i for i, token in enumerate(TOKENS)}, unk_token="a"))
    backend.decoder = DECODERS[name]  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = JsonTokenizer(backend, {}, name)
    if name in ("ctc", "fused, then replaced"):
        with pytest.raises(UnsupportedError, match="no token bytes"):
            tokenizer.token_bytes()
        return
    for token, own in zip(TOKENS, tokenizer.token_bytes(), strict=True):
        around = [TOKENS.index("b"), TOKENS.index(token), TOKENS.index("b")]
        first, last = backend.decode([around[0], around[2]], skip_special_tokens=False).encode(), b"b"
        whole = backend.decode(around, skip_special_tokens=False).encode()
        before = backend.decode(around[:1] + around[:1], skip_special_tokens=False).encode().removesuffix(last)
        after = first.removeprefix(backend.decode(around[:1], skip_special_tokens=False).encode())
        if name == "bpe with suffix":
            before, after = b"b", b"b"
        elif name in ("none", "word piece", "word piece, not cleaned"):
            before, after = b"b", b" b"
        if "\ufffd".encode() not in whole:
            assert whole == before + own + after, (token, own, whole)


# --- clean-up of spaces ----------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(parts=st.lists(st.text(alphabet=" .,?!'ntmsvere x", max_size=6), max_size=10))
def test_streaming_clean_up_equals_clean_up_of_the_whole(parts: list[str]):
    stream = StreamingCleanUp()
    assert "".join([*map(stream.push, parts), stream.flush()]) == clean_up_tokenization("".join(parts))


@settings(max_examples=200)
@given(
    parts=st.lists(st.text(alphabet="ab", max_size=4), max_size=8),
    old=st.sampled_from(["a", "ab", "aa", "aba", "abab"]),
)
def test_streaming_replace_equals_replace(parts: list[str], old: str):
    stream = StreamingReplace(old, "-")
    assert "".join([*map(stream.push, parts), stream.flush()]) == "".join(parts).replace(old, "-")


def test_a_word_piece_vocabulary_is_cleaned_up_in_the_stream_too():
    vocab = {"do": 0, "n't": 1, "stop": 2, ".": 3, "please": 4, ",": 5}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="do"))
    tokenizer = JsonTokenizer(backend, {"clean_up_tokenization_spaces": True}, "test")
    ids = [0, 1, 2, 5, 4, 3]
    assert tokenizer.decode(ids) == "don't stop, please." == "".join(streamed(tokenizer, ids, skip=True))
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == "do n't stop , please ."


def test_malformed_bytes_are_replaced_as_python_replaces_them(shared: Path):
    tokenizer = load_tokenizer(shared / "minimind_tokenizer")
    broken = [tokenizer.convert_tokens_to_ids(token) for token in ("é¾", "a", "ĺ", "ðŁ")]
    expected = codecs.decode(b"\xe9\xbea\x98\xf0\x9f", "utf-8", "replace")
    assert "".join(streamed(tokenizer, broken, skip=True)) == expected == tokenizer.decode(broken)
