"""Tokenizers inside GGUF, against llama.cpp's own test vectors and transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import pellucid
from pellucid.base import notice
from pellucid.base.errors import TokenizerError
from pellucid.checkpoint.files.gguf import GGUFFile
from pellucid.text.load import load_tokenizer
from pellucid.text.readers.byte_level import CHAR_OF_BYTE
from pellucid.text.readers.gguf import tokenizer_from_gguf
from pellucid.text.readers.pre_tokenizers import PRE_TOKENIZERS
from pellucid.text.tokenizer import Tokenizer

VOCABULARIES = ("llama-spm", "gpt-2")


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


@pytest.mark.parametrize("name", VOCABULARIES)
def test_all_of_llama_cpp_s_tricky_strings(shared: Path, name: str):
    tokenizer = tokenizer_from_gguf(metadata_of(shared, name))
    folder = shared / "gguf_vocabs"
    texts = (folder / f"ggml-vocab-{name}.gguf.inp").read_bytes().decode("utf-8").split("\n__ggml_vocab_test__\n")
    expected = [
        [int(i) for i in line.split()] for line in (folder / f"ggml-vocab-{name}.gguf.out").read_text().split("\n")
    ]
    assert len(texts) == len(expected) == 47
    assert [tokenizer.encode(text, add_special_tokens=False) for text in texts] == expected


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
        ({"tokenizer.ggml.model": "t5"}, "'t5' is not supported"),
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
    for base in (small_bpe(), small_spm()):
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
