"""Vocabulary files that are not tokenizer.json: tiktoken's ranks, Mistral's tekken, BERT's vocab.txt, ChatGLM-6B's."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe
from transformers import AutoTokenizer, BertTokenizer

from pellucid.base.errors import TokenizerError
from pellucid.text.load import load_tokenizer
from pellucid.text.tokenizer import Tokenizer

UNICODE = st.text(
    alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("  \n\tab'sT12é漢字か\u0301")), max_size=40
)
SEPARATOR = "\n__ggml_vocab_test__\n"

# As the models' own code has them.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
PATTERNS = {
    "qwen.tiktoken": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
    "tokenizer.model": (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
    ),
    "tiktoken.model": "|".join(
        [
            r"[\p{Han}]+",
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?",
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n]*",
            _SPACES,
        ]
    ),
}


def folder_with(shared: Path, folder: Path, file: str) -> Path:
    """Whisper's multilingual ranks, without the last, which is of no bytes."""
    folder.mkdir(exist_ok=True)
    lines = (shared / "gpt2_bpe" / "multilingual.tiktoken").read_text().splitlines(keepends=True)
    (folder / file).write_text("".join(lines[:-1]))
    return folder


@cache
def pair_of(shared: Path, folder: Path, file: str) -> tuple[Tokenizer, tiktoken.Encoding]:
    tokenizer = load_tokenizer(folder_with(shared, folder / file.split(".")[0], file))
    ranks = load_tiktoken_bpe(str(folder / file.split(".")[0] / file))
    return tokenizer, tiktoken.Encoding("test", pat_str=PATTERNS[file], mergeable_ranks=ranks, special_tokens={})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


def books(shared: Path) -> list[str]:
    return [
        (shared / path).read_text(encoding="utf-8")
        for path in ("text_chinese/hongloumeng.txt", "text_misc/wizard_of_oz.txt")
    ]


@pytest.mark.parametrize("file", PATTERNS)
def test_ranks_give_tiktoken_s_ids_of_whole_books_and_tricky_strings(shared: Path, folders: Path, file: str):
    """Whisper's multilingual ranks under each model's file name; Qwen's normalizes to NFC first, as its code does."""
    ours, theirs = pair_of(shared, folders, file)
    tricky = (shared / "gguf_vocabs" / "ggml-vocab-gpt-2.gguf.inp").read_bytes().decode().split(SEPARATOR)
    for text in [*books(shared), *tricky, "a" * 77, "\n" * 33 + " " * 50, "x=x=x==xx"]:
        assert ours.encode(text, add_special_tokens=False) == theirs.encode_ordinary(text), text[:80]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=UNICODE)
@pytest.mark.parametrize("file", ["tokenizer.model", "tiktoken.model"])
def test_ranks_give_tiktoken_s_ids_of_any_text(shared: Path, folders: Path, file: str, text: str):
    ours, theirs = pair_of(shared, folders, file)
    assert ours.encode(text, add_special_tokens=False) == theirs.encode_ordinary(text)
    assert ours.decode(theirs.encode_ordinary(text)) == text


def test_llama_3_s_special_tokens_follow_its_ranks(shared: Path, folders: Path):
    tokenizer, _ = pair_of(shared, folders, "tokenizer.model")
    first = 50256
    ids = tokenizer.encode("<|start_header_id|>user<|end_header_id|>")
    assert ids[:2] == [first, first + 6]
    assert ids[-1] == first + 7
    assert tokenizer.stop_token_ids == [first + 1, first + 8, first + 9]
    assert len(tokenizer) == first + 256
    assert tokenizer.convert_ids_to_tokens(first + 255) == "<|reserved_special_token_247|>"


def test_kimi_s_config_names_its_special_tokens_and_qwen_s_code_does(shared: Path, tmp_path: Path):
    kimi = folder_with(shared, tmp_path / "kimi", "tiktoken.model")
    first = len(load_tiktoken_bpe(str(kimi / "tiktoken.model")))
    names = {first: "[BOS]", first + 1: "[EOS]", first + 2: "<|im_end|>"}
    config = {"tokenizer_class": "TikTokenTokenizer", "auto_map": {"AutoTokenizer": ["x.T", None]}}
    config["added_tokens_decoder"] = {str(place): {"content": name, "special": True} for place, name in names.items()}
    (kimi / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(kimi)
    assert tokenizer.encode(f"[BOS]a<|im_end|><|reserved_token_{first + 3}|>")[::2] == [first, first + 2]
    assert (tokenizer.bos_token, tokenizer.eos_token_id, len(tokenizer)) == ("[BOS]", first + 1, first + 258)
    assert tokenizer.stop_token_ids == [first + 1, first + 2]
    qwen = load_tokenizer(folder_with(shared, tmp_path / "qwen", "qwen.tiktoken"))
    assert qwen.encode("<|im_start|>e\u0301<|extra_204|>") == [first + 1, *qwen.encode("é"), first + 3 + 204]


def test_ranks_saved_are_a_tokenizer_json_that_transformers_reads(shared: Path, folders: Path, tmp_path: Path):
    ours, _ = pair_of(shared, folders, "tokenizer.model")
    ours.save_pretrained(tmp_path)
    text = "Hello 漢字 12345<|eot_id|>  y'all"
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).encode(text) == ours.encode(text) == theirs(text)["input_ids"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("AA== 0\nAQ== 2\n", "without a gap"), ("AA== 0\nx y\n", "base64"), ("AA== 0\nAQ==\n", "base64")],
)
def test_broken_ranks_are_refused(tmp_path: Path, content: str, message: str):
    (tmp_path / "tokenizer.model").write_text(content)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path)


# --- tekken ----------------------------------------------------------------------------------------------------------


def tekken(**changes: Any) -> dict[str, Any]:
    tokens = [bytes([byte]) for byte in range(256)] + [b"ab", b" ab", b"\xe6\xbc", b"\xe6\xbc\xa2", b"unused"]
    vocab = [
        {"rank": place, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for place, token in enumerate(tokens)
    ]
    config = {"pattern": PATTERNS["qwen.tiktoken"], "num_vocab_tokens": len(tokens), "version": "v7"}
    config |= {"default_vocab_size": 264, "default_num_special_tokens": 4}
    special = [
        {"rank": place, "token_str": token, "is_control": True} for place, token in enumerate(("<unk>", "<s>", "</s>"))
    ]
    return {"config": config, "vocab": vocab, "special_tokens": special, "version": 1, **changes}


def test_tekken_s_special_tokens_come_first_and_its_last_ranks_may_be_left_out(tmp_path: Path):
    (tmp_path / "tekken.json").write_text(json.dumps(tekken()))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("ab ab漢</s><SPECIAL_3>") == [1, 260, 261, 263, 2, 3]
    assert tokenizer.decode([260, 261, 263]) == "ab ab漢"
    assert tokenizer.encode("unused", add_special_tokens=False) == [4 + byte for byte in b"unused"]
    assert (len(tokenizer), tokenizer.stop_token_ids) == (264, [2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": None}, "config is missing"),
        ({"vocab": []}, "too short"),
        ({"vocab": [{"rank": 1, "token_bytes": "AA=="}] * 300}, "bytes in base64"),
        ({"special_tokens": [{"rank": 9, "token_str": "x"}]}, "special token"),
        ({"config": {**tekken()["config"], "default_num_special_tokens": 10**9}}, "no list of special tokens"),
        ({"config": {**tekken()["config"], "pattern": "("}}, "cannot be used"),
    ],
)
def test_a_broken_tekken_is_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    (tmp_path / "tekken.json").write_text(json.dumps(tekken(**changes)))
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path)


def test_mistral_s_own_files_give_mistral_common_s_ids(shared: Path, tmp_path: Path):
    """The two files that the library brings along, on whole books and tricky strings."""
    if importlib.util.find_spec("mistral_common") is None:
        pytest.skip("no mistral_common; pip install mistral-common")
    import mistral_common  # pyright: ignore[reportMissingImports]
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer  # pyright: ignore[reportMissingImports]

    tricky = (shared / "gguf_vocabs" / "ggml-vocab-gpt-2.gguf.inp").read_bytes().decode().split(SEPARATOR)
    for path in sorted((Path(str(mistral_common.__file__)).parent / "data").glob("tekken_*.json")):
        shutil.copy(path, tmp_path / "tekken.json")
        ours, theirs = load_tokenizer(tmp_path), Tekkenizer.from_file(path)
        for text in [*books(shared), *tricky]:
            assert ours.encode(text) == theirs.encode(text, bos=True, eos=False)


# --- vocab.txt -------------------------------------------------------------------------------------------------------

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"中国人我是,.!e", "hug", "##s", "##ging", "is", "Is", "##e"]


@pytest.mark.parametrize(
    "config", [{}, {"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}]
)
def test_vocab_txt_is_bert_s(tmp_path: Path, config: dict[str, Any]):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **config}))
    ours, theirs = load_tokenizer(tmp_path), BertTokenizer.from_pretrained(tmp_path)
    for text in ["我是中国人 hugs, HUGGING is!", "Is é É xyz [MASK] is", "", "hug" * 60]:
        assert ours.encode(text) == theirs(text)["input_ids"], text
        assert ours.decode(ours.encode(text)) == theirs.decode(ours.encode(text))


def test_a_vocab_txt_that_repeats_a_token_or_lacks_one_is_refused(tmp_path: Path):
    for words, message in (([*WORDS, "hug"], "twice"), (WORDS[4:], "missing")):
        (tmp_path / "vocab.txt").write_text("\n".join(words))
        with pytest.raises(TokenizerError, match=message):
            load_tokenizer(tmp_path)


# --- ChatGLM-6B ------------------------------------------------------------------------------------------------------

ICE = ("<n>", "<|tab|>", *(f"<|blank_{length}|>" for length in range(80, 1, -1)))
ICE_SPECIAL = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>")


@cache
def ice_text(shared: Path) -> bytes:
    """A small model with ChatGLM-6B's symbols; the real one cannot be had here."""
    model = io.BytesIO()
    text = (shared / "text_misc" / "wizard_of_oz.txt").read_text(encoding="utf-8")[:60_000]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.splitlines()), model_writer=model, vocab_size=900, model_type="unigram",
        user_defined_symbols=list(ICE), control_symbols=list(ICE_SPECIAL), byte_fallback=True, pad_piece="<pad>",
        pad_id=3, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def as_their_code(processor: sentencepiece.SentencePieceProcessor, text: str, images: int) -> list[int]:
    text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
    for length in range(80, 1, -1):
        text = text.replace(" " * length, f"<|blank_{length}|>")
    ids = [*processor.encode(text), processor.piece_to_id("[gMASK]"), processor.piece_to_id("<sop>")]
    return [images + token_id for token_id in ids]


@pytest.mark.parametrize("images", [0, 20])
def test_chatglm_6b_writes_line_ends_tabs_and_runs_of_spaces_as_tokens(shared: Path, tmp_path: Path, images: int):
    (tmp_path / "ice_text.model").write_bytes(ice_text(shared))
    config = {"tokenizer_class": "ChatGLMTokenizer", "num_image_tokens": images, "gmask_token": "[gMASK]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    processor = sentencepiece.SentencePieceProcessor(model_proto=ice_text(shared))
    texts = ["Hello\n\tthe  Witch   of" + " " * 81 + "Oz\n", "", " a", "大模型 x\n", "\n", " " * 161 + "b"]
    for text in texts:
        assert tokenizer.encode(text) == as_their_code(processor, text, images), text
        back = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))
        assert back == text.removeprefix(" ") if text == " a" else back == text
    assert tokenizer.encode("a", "b")[-1] == images + processor.piece_to_id("<eop>")
    pieces = tokenizer.pieces("é\n\n  b")
    assert [piece.text for piece in pieces][-4:] == ["\n", "\n", "  ", "b"]
    saved = tmp_path / "saved"
    saved.mkdir()
    tokenizer.save_pretrained(saved)
    assert (saved / "ice_text.model").read_bytes() == ice_text(shared)
    assert load_tokenizer(saved).encode(texts[0]) == tokenizer.encode(texts[0])


def test_a_model_without_chatglm_s_tokens_is_refused(shared: Path, tmp_path: Path):
    shutil.copy(shared / "llama2_tokenizer" / "tokenizer.model", tmp_path / "ice_text.model")
    with pytest.raises(TokenizerError, match="ChatGLM-6B are missing"):
        load_tokenizer(tmp_path)
