"""Tokenizers inside GGUF, against llama.cpp's own test vectors and transformers."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import llamacpp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import pellucid
from pellucid.base import notice
from pellucid.base.errors import TokenizerError
from pellucid.checkpoint.files.gguf import GGUFFile
from pellucid.text.detokenizer import IncrementalDetokenizer
from pellucid.text.load import load_tokenizer
from pellucid.text.readers.byte_level import CHAR_OF_BYTE
from pellucid.text.readers.gguf import tokenizer_from_gguf
from pellucid.text.readers.pre_tokenizers import PRE_TOKENIZERS
from pellucid.text.tokenizer import Tokenizer

VOCABULARIES = ("llama-spm", "gpt-2")
SEPARATOR = "\n__ggml_vocab_test__\n"


def metadata_of(shared: Path, name: str) -> dict[str, Any]:
    return GGUFFile(shared / "gguf_vocabs" / f"ggml-vocab-{name}.gguf").metadata


@pytest.fixture(scope="module")
def spm(shared: Path) -> Tokenizer:
    return tokenizer_from_gguf(metadata_of(shared, "llama-spm"))


@pytest.fixture(scope="module")
def llama(shared: Path) -> Tokenizer:
    return load_tokenizer(shared / "llama2_tokenizer" / "tokenizer.model")


@pytest.fixture(scope="module")
def smol(smollm2: Path) -> Tokenizer:
    return tokenizer_from_gguf(GGUFFile(smollm2).metadata)


def test_all_of_llama_cpp_s_tricky_strings(shared: Path):
    """Of every vocabulary that lies there; llama.cpp has fifteen with strings, three of them of kinds of their own."""
    folder = shared / "gguf_vocabs"
    names = [path.name.removesuffix(".gguf.inp") for path in sorted(folder.glob("*.gguf.inp"))]
    assert {f"ggml-vocab-{name}" for name in VOCABULARIES} <= {*names}
    for name in names:
        tokenizer = tokenizer_from_gguf(GGUFFile(folder / f"{name}.gguf").metadata)
        texts = (folder / f"{name}.gguf.inp").read_bytes().decode("utf-8").split(SEPARATOR)
        lines = (folder / f"{name}.gguf.out").read_text().split("\n")[: len(texts)]
        assert len(lines) == len(texts) >= 46, name
        for text, line in zip(texts, lines, strict=True):
            assert tokenizer.encode(text, add_special_tokens=False) == [int(i) for i in line.split()], (name, text)


def strings_of(shared: Path) -> list[str]:
    texts = (shared / "gguf_vocabs" / "ggml-vocab-gpt-2.gguf.inp").read_bytes().decode("utf-8").split(SEPARATOR)
    for path in ("text_chinese/hongloumeng.txt", "text_shakespeare/input.txt", "text_misc/wizard_of_oz.txt"):
        text = (shared / path).read_text(encoding="utf-8")
        texts += [text[start : start + 200] for start in range(0, 20_000, 1000)]
    return [unicodedata.normalize("NFC", text) for text in [*texts, *MORE] if text]


MORE = (
    "aBC DeF gHI HELLOWorld's O'CLOCK I'LL it'S", "ÀÉîÕ ñandú ǅungla ʰAʰb ªº", "a/b//c\n/\n d", "x\u200dy \u00adz",
    "1234567 ١٢٣ Ⅷ½ 12345678901 $5.00, 1,234,567.89", "　全角　ＡＢＣ１２３ 漢字かなカナ한국어",
    "don't  'stop\r\n\r\n  now",
    "\t\ttabs \t x", "…—“quoted” ©®™ #$%&/=?¡¿!!", "👩\u200d👩\u200d👧 family", "a\n\n\n  b   \n c\n", "हिन्दी ภาษาไทย",
    "(x=y) `code` ~/a_b foo(bar)\n\tbaz();\r\n", "   leading and trailing   ", "x" * 50 + " " * 40 + "y",
    "<sentinel:12>",
)  # fmt: skip


def test_every_named_pre_tokenizer_cuts_as_llama_cpp_does(shared: Path, tmp_path: Path):
    """GPT-2's first 2,000 merges under each name. NFC, which some models have and llama.cpp has not, is done before."""
    base, texts = metadata_of(shared, "gpt-2"), strings_of(shared)
    small = {"tokens": base["tokenizer.ggml.tokens"][:2256], "merges": base["tokenizer.ggml.merges"][:2000]}
    small = {f"tokenizer.ggml.{key}": value for key, value in small.items()} | {"tokenizer.ggml.model": "gpt2"}
    names = list({pre: name for name, pre in PRE_TOKENIZERS.items() if pre.bytes}.values())
    metadata = {name: {**small, "tokenizer.ggml.pre": name} for name in names}
    files = [llamacpp.write_vocabulary(tmp_path / f"{name}.gguf", metadata[name]) for name in names]
    for name, expected in zip(names, llamacpp.ids_of(files, texts), strict=True):
        tokenizer = tokenizer_from_gguf(metadata[name])
        for text, ids in zip(texts, expected, strict=True):
            if name == "cohere2moe" and re.search(r"\d[^\W\d_]", text, re.UNICODE):
                continue  # its pattern asks for \b, for which llama.cpp knows ASCII's letters alone
            assert tokenizer.encode(text, add_special_tokens=False) == ids, (name, text)


def test_a_token_that_occurs_twice_stops_llama_cpp_too(shared: Path, tmp_path: Path):
    base = metadata_of(shared, "gpt-2")
    tokens = [*base["tokenizer.ggml.tokens"][:-1], "a"]
    twice = llamacpp.write_vocabulary(tmp_path / "twice.gguf", {**base, "tokenizer.ggml.tokens": tokens})
    llamacpp.ids_of([], [])  # skips where it is not built
    with pytest.raises(AssertionError, match="ended with -6"):
        llamacpp.ids_of([twice], ["a"])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("  \nab▁你龘😀")), max_size=40))
def test_the_spm_vocabulary_is_the_sentencepiece_model_it_came_from(spm: Tokenizer, llama: Tokenizer, text: str):
    assert spm(text) == llama(text)
    assert spm.decode(spm(text).input_ids) == llama.decode(spm(text).input_ids)


def test_smollm2_reads_as_it_was_trained(smol: Tokenizer):
    assert smol("Hello 你好 123").input_ids == [
        19556,
        216,
        18645,
        250,
        48392,
        138,
        216,
        33,
        34,
        35,
    ]  # digits one by one
    assert smol.decode(smol("Hello 你好 123").input_ids) == "Hello 你好 123"
    assert smol.stop_token_ids == [2, 0]
    assert (smol.eos_token, smol.model_max_length) == ("<|im_end|>", 8192)
    text = smol.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False)
    assert text.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    assert smol.apply_chat_template([{"role": "user", "content": "hi"}], return_dict=False)[:2] == [1, 9690]


def as_gguf(folder: Path, pre: str) -> dict[str, Any]:
    """A tokenizer.json's vocabulary as llama.cpp's converter writes it."""
    content = json.loads((folder / "tokenizer.json").read_text())
    vocab = dict(content["model"]["vocab"]) | {token["content"]: token["id"] for token in content["added_tokens"]}
    special = {token["content"]: 3 if token["special"] else 4 for token in content["added_tokens"]}
    tokens = sorted(vocab, key=vocab.__getitem__)
    assert [vocab[token] for token in tokens] == list(range(len(tokens)))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [special.get(token, 1) for token in tokens],
        "tokenizer.ggml.merges": merges,
    }


def test_qwen3_in_a_gguf_equals_transformers(shared: Path):
    folder = shared / "qwen3_tokenizer"
    ours, theirs = tokenizer_from_gguf(as_gguf(folder, "qwen2")), AutoTokenizer.from_pretrained(folder)
    chinese = (shared / "text_chinese" / "hongloumeng.txt").read_text()[1000:4000]
    english = (shared / "text_shakespeare" / "input.txt").read_text()[:3000]
    for text in [
        chinese,
        english,
        chinese[:200] + english[:200],
        "e\u0301 <|im_start|>x<think> I'LL 123\r\n\r\n  y",
        " \u3000 ½²",
    ]:
        assert ours(text).input_ids == theirs(text)["input_ids"]
        assert ours.decode(ours(text).input_ids) == theirs.decode(ours(text).input_ids)


# What each pre-tokenizer is for: how it cuts digits, contractions in capitals, and line ends.
CUTS = {
    "gpt-2": ["12345", "I", "'", "LL", "▁hi", "\n", "\n", "x"],
    "smollm": ["1", "2", "3", "4", "5", "I", "'", "LL", "▁hi", "\n", "\n", "x"],
    "llama-bpe": ["123", "45", "I", "'LL", "▁hi", "\n\n", "x"],
    "glm4": ["123", "45", "I", "'LL", "▁hi", "\n\n", "x"],
    "qwen2": ["1", "2", "3", "4", "5", "I", "'LL", "▁hi", "\n\n", "x"],
    "deepseek-v3": ["123", "45", "I", "'LL", "▁hi", "\n\n", "x"],
    "tekken": ["1", "2", "3", "4", "5", "I", "'LL", "▁hi", "\n\n", "x"],
    "gpt-4o": ["123", "45", "I'LL", "▁hi", "\n\n", "x"],
    "qwen35": ["1", "2", "3", "4", "5", "I", "'LL", "▁hi", "\n\n", "x"],
    "seed-coder": ["1", "2", "3", "4", "5", "I", "'LL", "▁hi", "\n\n", "x"],
    "kimi-k2": ["123", "45", "I'LL", "▁hi", "\n\n", "x"],
    "afmoe": ["12", "345", "I", "'LL", "▁hi", "\n\n", "x"],
    "deepseek-llm": ["12345", "I", "'", "LL", "▁hi", "\n", "\n", "x"],
    "falcon": ["123", "45", "I", "'", "LL", "▁hi", "\n", "\n", "x"],
    "bloom": ["12345I'LL", "▁hi", "\n\n", "x"],
    "default": ["123", "45", "I", "'", "LL", "▁hi", "\n", "\n", "x"],
}


@pytest.mark.parametrize("name", CUTS)
def test_a_pre_tokenizer_cuts_as_its_model_was_trained(name: str):
    from tokenizers import Regex, pre_tokenizers

    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PRE_TOKENIZERS[name].patterns]
    words = [
        word.replace(" ", "▁") for word, _ in pre_tokenizers.Sequence(splits).pre_tokenize_str("12345I'LL hi\n\nx")
    ]  # pyright: ignore
    assert words == CUTS[name]


def test_llama3_and_gemma_like_files_begin_with_bos():
    base = small_bpe()
    for pre, file_says, expected in [
        ("llama-bpe", None, [4, 0]),
        ("gpt-2", None, [0]),
        ("gpt-2", True, [4, 0]),
        ("llama-bpe", False, [0]),
    ]:
        metadata = (
            base
            | {"tokenizer.ggml.pre": pre}
            | ({} if file_says is None else {"tokenizer.ggml.add_bos_token": file_says})
        )
        assert tokenizer_from_gguf(metadata).encode("a") == expected
    both = base | {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    tokenizer = tokenizer_from_gguf(both)
    assert tokenizer.encode("a") == [4, 0, 5]
    assert tokenizer.encode("a", "b") == [4, 0, 5, 4, 1, 5]


def test_words_that_are_tokens_are_taken_whole_where_merges_are_ignored():
    metadata = small_bpe() | {
        "tokenizer.ggml.tokens": ["a", "b", "ab", "ba", "<s>", "</s>", "bab"],
        "tokenizer.ggml.token_type": [1] * 4 + [3] * 2 + [1],
    }
    assert tokenizer_from_gguf(metadata | {"tokenizer.ggml.pre": "llama-bpe"}).tokenize("bab") == ["bab"]
    assert tokenizer_from_gguf(metadata).tokenize("bab") == ["b", "ab"]


def test_a_bad_id_that_encoding_can_do_without_is_ignored():
    tokenizer = tokenizer_from_gguf(
        small_bpe() | {"tokenizer.ggml.eot_token_id": 999, "tokenizer.ggml.mask_token_id": "x"}
    )
    assert (tokenizer.stop_token_ids, tokenizer.mask_token) == ([5], None)


def test_gpt_oss_ends_an_answer_with_return_not_end():
    tokens = {
        "tokenizer.ggml.tokens": ["a", "<|end|>", "<|return|>", "b", "ab"],
        "tokenizer.ggml.token_type": [1, 3, 3, 1, 1],
    }
    metadata = small_bpe() | tokens | {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}
    assert tokenizer_from_gguf(metadata).stop_token_ids == [2]


def test_named_chat_templates_are_found():
    metadata = small_bpe() | {"tokenizer.chat_template": "plain", "tokenizer.chat_template.tool_use": "tools"}
    assert tokenizer_from_gguf(metadata).chat_template == {"default": "plain", "tool_use": "tools"}
    assert tokenizer_from_gguf(small_bpe()).chat_template is None


# --- other kinds of vocabulary ---------------------------------------------------------------------------------------


def small_unigram() -> dict[str, Any]:
    tokens = ["<pad>", "</s>", "<unk>", "▁", "a", "b", "▁a", "ab", "▁ab"]
    return {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -2.0, -3.0, -3.0, -4.0, -4.0, -9.0],
        "tokenizer.ggml.token_type": [3, 3, 2, 1, 1, 1, 1, 1, 1],
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
    }


def small_word_piece() -> dict[str, Any]:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁hug", "ging", "s", "▁is", "▁!", "▁中"]
    names = {"unknown": 1, "cls": 2, "seperator": 3, "padding": 0}
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 4 + [1] * 6,
        **{f"tokenizer.ggml.{name}_token_id": place for name, place in names.items()},
    }


def small_rwkv() -> dict[str, Any]:
    words = ["the", " the", "\\n\\n", "漢", "漢字", "\\xe3\\x81", "ab", "abc", "  "]
    tokens = ["<s>", *(f"\\x{byte:02x}" for byte in range(256)), *words]
    return {
        "tokenizer.ggml.model": "rwkv",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] + [1] * (len(tokens) - 1),
    }


def small_gemma() -> dict[str, Any]:
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", "a", "b", "ab", "▁ab", "\n", "\n\n"]
    return {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": [*tokens, *(f"<0x{byte:02X}>" for byte in range(256))],
        "tokenizer.ggml.token_type": [3] * 4 + [1] * 7 + [6] * 256,
        "tokenizer.ggml.merges": ["a b", "▁ ab", "\n \n"],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.add_bos_token": False,
    }


def test_the_cut_of_the_highest_score_is_the_unigram_model_s():
    tokenizer = tokenizer_from_gguf(small_unigram())
    assert tokenizer.tokenize("ab") == ["▁", "ab"]  # −2 − 4 beats −9 and −4 − 3
    assert tokenizer.encode("  ab   a ") == [3, 7, 6, 1]  # spaces trimmed, and T5's end
    assert tokenizer.encode("c") == [3, 2, 1]
    assert tokenizer.decode([3, 7, 6]) == "ab a"


def test_every_kind_knows_the_bytes_of_its_tokens():
    for made in (small_bpe(), small_spm(), small_unigram(), small_word_piece(), small_rwkv(), small_gemma()):
        tokenizer = tokenizer_from_gguf(made)
        table, kind = tokenizer.token_bytes(), made["tokenizer.ggml.model"]
        ordinary = [i for i in range(len(tokenizer)) if i not in tokenizer.special_ids]
        assert len(table) == len(tokenizer)
        for token in ordinary:
            detokenizer = IncrementalDetokenizer(tokenizer, prompt_ids=[ordinary[0]])
            detokenizer.push(ordinary[-1])
            text = detokenizer.push(token) + detokenizer.flush()
            assert text == table[token].decode("utf-8", "replace") or "\ufffd" in text, (kind, token)


def test_word_piece_takes_the_longest_beginning_of_a_word():
    tokenizer = tokenizer_from_gguf(small_word_piece())
    assert tokenizer.tokenize("Hugging ís!") == ["hug", "##ging", "is", "!"]
    assert tokenizer.encode("hugs中x") == [2, 4, 6, 9, 1, 3]
    assert tokenizer.decode([4, 5, 6]) == "huggings"
    cased = tokenizer_from_gguf({**small_word_piece(), "tokenizer.ggml.normalizer.lowercase": False})
    assert cased.tokenize("Hug hug") == ["[UNK]", "hug"]


def test_rwkv_takes_the_longest_bytes_at_each_place():
    tokenizer = tokenizer_from_gguf(small_rwkv())
    assert tokenizer.encode("abcab the\n\n\n") == [264, 263, 258, 259, 11]
    assert tokenizer.encode("漢字漢か") == [261, 260, 262, 1 + 0x8B]
    for text in ("漢字 か", "é", "a<s>b", "\\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("a<s>b") == [98, 0, 99]
    assert [piece.text for piece in tokenizer.pieces("漢か")] == ["漢", "か", "か"]
    without = {**small_rwkv(), "tokenizer.ggml.tokens": small_rwkv()["tokenizer.ggml.tokens"]}
    without["tokenizer.ggml.tokens"][5] = "\\x03\\x04"
    with pytest.raises(TokenizerError, match="no token for the byte 4"):
        tokenizer_from_gguf(without)


def test_gemma_4_merges_characters_and_begins_with_bos_whatever_the_file_says():
    tokenizer = tokenizer_from_gguf(small_gemma())
    assert tokenizer.encode("ab ab\n\n\nb") == [2, 7, 8, 10, 9, 6]
    assert tokenizer.encode("é", add_special_tokens=False) == [11 + 0xC3, 11 + 0xA9]
    assert tokenizer.decode([7, 8, 11 + 0xC3, 11 + 0xA9]) == "ab abé"


def test_the_other_kinds_are_llama_cpp_s(shared: Path, tmp_path: Path):
    """RWKV, Gemma 4 and unigram in small, text and ends; WordPiece is `tokenizers`' own, which knows Unicode better."""
    made = {"rwkv": small_rwkv(), "gemma4": small_gemma(), "t5": small_unigram()}
    files = [llamacpp.write_vocabulary(tmp_path / f"{name}.gguf", metadata) for name, metadata in made.items()]
    texts = [text for text in strings_of(shared) if "  " not in text.strip()] + ["ab ab\n\n abab", "a b c", "漢字か"]
    for ends in (False, True):
        for (name, metadata), expected in zip(made.items(), llamacpp.ids_of(files, texts, ends=ends), strict=True):
            tokenizer = tokenizer_from_gguf(metadata)
            for text, ids in zip(texts, expected, strict=True):
                assert tokenizer.encode(text, add_special_tokens=ends) == ids, (name, ends, text)


# --- files that are wrong --------------------------------------------------------------------------------------------


def small_bpe() -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "b", "ab", "ba", "<s>", "</s>"],
        "tokenizer.ggml.token_type": [1, 1, 1, 1, 3, 3],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 4,
        "tokenizer.ggml.eos_token_id": 5,
    }


def small_spm() -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", "▁", "a", "▁a"]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -2.0, -3.0, -1.0],
        "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1],
    }


def test_a_small_spm_vocabulary_without_bytes_has_an_unknown_token():
    tokenizer = tokenizer_from_gguf(small_spm())
    assert tokenizer.encode("a a?") == [1, 5, 5, 0]
    assert tokenizer_from_gguf(small_spm() | {"tokenizer.ggml.add_space_prefix": False}).encode("a a") == [1, 4, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "plamo2"}, "'plamo2' is not supported"),
        ({"tokenizer.ggml.model": None}, "no tokenizer"),
        ({"tokenizer.ggml.pre": "made-up"}, "'made-up' is unknown"),
        ({"tokenizer.ggml.pre": None}, "does not name its pre-tokenizer"),
        ({"tokenizer.ggml.tokens": None}, "the list is missing"),
        ({"tokenizer.ggml.tokens": "abc"}, "the list is missing"),
        ({"tokenizer.ggml.tokens": []}, "not a list of strings"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "not a list of strings"),
        ({"tokenizer.ggml.tokens": ["a", "b", "ab", "a", "<s>", "</s>"]}, "occurs twice"),
        ({"tokenizer.ggml.token_type": [1]}, "not as many as tokens"),
        ({"tokenizer.ggml.token_type": 7}, "not as many as tokens"),
        ({"tokenizer.ggml.merges": ["ab"]}, "two tokens"),
        ({"tokenizer.ggml.merges": ["a c"]}, "lacks"),
        ({"tokenizer.ggml.merges": ["b b"]}, "needs the token 'bb'"),
        ({"tokenizer.ggml.merges": None}, "the list is missing"),
        ({"tokenizer.ggml.bos_token_id": 6}, "no token has this id"),
        ({"tokenizer.ggml.eos_token_id": -1}, "no token has this id"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_broken_bpe_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(TokenizerError, match=message):
        tokenizer_from_gguf(small_bpe() | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.scores": None}, "not as many as tokens"),
        ({"tokenizer.ggml.scores": [float("nan")] * 6}, "not a number"),
        ({"tokenizer.ggml.token_type": [2, 3, 3, 6, 1, 1]}, "byte tokens are missing"),
        ({"tokenizer.ggml.unknown_token_id": 99}, "no token has this id"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_broken_spm_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(TokenizerError, match=message):
        tokenizer_from_gguf(small_spm() | change)


@settings(max_examples=100, deadline=None)
@given(
    key=st.sampled_from(sorted(small_bpe())),
    value=st.one_of(
        st.none(),
        st.integers(-5, 10),
        st.text(max_size=4),
        st.lists(st.one_of(st.integers(-3, 9), st.text(max_size=3)), max_size=7),
    ),
)
def test_any_damage_is_an_error_or_a_tokenizer(key: str, value: Any):
    for base in (small_bpe(), small_spm(), small_unigram(), small_word_piece(), small_rwkv(), small_gemma()):
        try:
            tokenizer_from_gguf(base | {key: value}).encode("ab")
        except TokenizerError:
            continue


# --- a tokenizer needs no model --------------------------------------------------------------------------------------


def vocabulary_only(path: Path, architecture: str, *, cut: bool = False) -> Path:
    """A file as llama.cpp's gguf package writes it: a byte-level vocabulary, and tensors of which none is whole."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*(CHAR_OF_BYTE[byte] for byte in range(256)), "ab", "<|end|>"])
    writer.add_token_types([1] * 257 + [3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(257)
    if cut:
        writer.add_tensor("token_embd.weight", np.zeros((258, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    if cut:
        writer.write_tensors_to_file()
    writer.close()
    if cut:
        path.write_bytes(path.read_bytes()[: -200 * 64 * 4])
    return path


@pytest.mark.parametrize("architecture", ["llama", "nobody-knows-it"])
@pytest.mark.parametrize("cut", [False, True], ids=["no tensors", "cut off"])
@pytest.mark.parametrize("as_folder", [False, True], ids=["file", "folder"])
def test_a_gguf_without_weights_or_of_an_unknown_family_has_its_tokenizer(
    tmp_path: Path, architecture: str, cut: bool, as_folder: bool
):
    path = vocabulary_only(tmp_path / "vocabulary.gguf", architecture, cut=cut)
    tokenizer = pellucid.AutoTokenizer.from_pretrained(tmp_path if as_folder else path)
    assert tokenizer("abba<|end|>").input_ids == [256, 98, 97, 257]
    assert tokenizer.decode([256, 98, 97, 257, 999], skip_special_tokens=True) == "abba"
    assert (tokenizer.eos_token_id, tokenizer.model_max_length) == (257, 64)


def test_llama_cpp_s_vocabulary_files_have_their_tokenizer(shared: Path):
    for name in VOCABULARIES:
        tokenizer = pellucid.AutoTokenizer.from_pretrained(shared / "gguf_vocabs" / f"ggml-vocab-{name}.gguf")
        assert tokenizer("Hello").input_ids == tokenizer_from_gguf(metadata_of(shared, name))("Hello").input_ids


def test_any_part_of_a_split_model_has_the_first_part_s_tokenizer(tmp_path: Path):
    import gguf

    vocabulary_only(tmp_path / "m-00001-of-00002.gguf", "nobody-knows-it")
    second = gguf.GGUFWriter(tmp_path / "m-00002-of-00002.gguf", "nobody-knows-it")
    second.add_uint16("split.no", 1)
    second.add_uint16("split.count", 2)
    second.write_header_to_file()
    second.write_kv_data_to_file()
    second.close()
    tokenizer = pellucid.AutoTokenizer.from_pretrained(tmp_path / "m-00002-of-00002.gguf")
    assert tokenizer("ab").input_ids == [256]


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_of_the_tokenizer_that_nobody_reads_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(notice, "_told", set())
    metadata = GGUFFile(vocabulary_only(tmp_path / "v.gguf", "llama")).metadata
    tokenizer_from_gguf({**metadata, "tokenizer.ggml.fim_pre_token_id": 5, "tokenizer.ggml.add_sep_token": False})
    assert capsys.readouterr() == ("", "")
    more = {"tokenizer.ggml.add_space_prefix": True, "tokenizer.ggml.casefold": True, "tokenizer.foo": 1}
    tokenizer_from_gguf({**metadata, **more})
    assert capsys.readouterr().err == (
        "pellucid: GGUF metadata: nothing here reads tokenizer.foo, tokenizer.ggml.add_space_prefix, "
        "tokenizer.ggml.casefold; they have no effect\n"
    )


def test_real_files_are_read_without_a_word(
    shared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(notice, "_told", set())
    for name in VOCABULARIES:
        tokenizer_from_gguf(metadata_of(shared, name))
    assert capsys.readouterr() == ("", "")
