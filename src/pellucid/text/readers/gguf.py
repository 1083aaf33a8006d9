"""Tokenizers inside GGUF files, from their metadata: SentencePiece's two kinds (``llama``, ``t5``), byte-pair encoding
of bytes (``gpt2``) and of characters (``gemma4``), WordPiece (``bert``), RWKV's longest match (``rwkv``).

A token that occurs twice is refused, as llama.cpp does: it would have two ids, or its second one none.

Source: ggml-org/ggml, ``docs/gguf.md``; llama.cpp, ``src/llama-vocab.cpp``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pellucid.base.errors import TokenizerError
from pellucid.base.notice import notice
from pellucid.base.typed import scalar
from pellucid.text.readers.byte_level_bpe import build_bpe
from pellucid.text.readers.byte_tokens import TOKEN_OF_BYTE
from pellucid.text.readers.gguf_keys import NAMES, WHERE, Keys
from pellucid.text.readers.pre_tokenizers import PreTokenizer, pre_tokenizer
from pellucid.text.readers.rwkv import rwkv_tokenizer
from pellucid.text.readers.sentencepiece_model import SentencePieceTokenizer
from pellucid.text.readers.sentencepiece_proto import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, build_model
from pellucid.text.readers.tokenizer_json import JsonTokenizer
from pellucid.text.readers.word_piece import word_piece
from pellucid.text.tokenizer import Tokenizer

# Keys under ``tokenizer.`` that are read, or that change no id and no text: infilling's tokens, copies of the whole.
_READ = {
    *NAMES.values(), "model", "pre", "tokens", "token_type", "scores", "merges", "eot_token_id", "eom_token_id",
    "add_bos_token", "add_eos_token", "add_space_prefix", "token_type_count", "prefix_token_id", "suffix_token_id",
    "middle_token_id", "separator_token_id",
}  # fmt: skip
_READ_OF = {
    "t5": {"precompiled_charsmap", "remove_extra_whitespaces"},
    "bert": {"normalizer.lowercase", "normalizer.strip_accents", "add_sep_token"},
}
_LLAMA_IDS = {"bos_token": 1, "eos_token": 2, "unk_token": 0}
_HARMLESS = ("tokenizer.chat_template", "tokenizer.ggml.fim_", "tokenizer.huggingface.json")


def _name_unread(metadata: Mapping[str, Any], model: object) -> None:
    """Say which keys of the tokenizer are not read, where they ask for something."""
    known = _READ | _READ_OF.get(str(model), set())
    unread = [
        key
        for key, value in metadata.items()
        if key.startswith("tokenizer.")
        and not key.startswith(_HARMLESS)
        and not (key.startswith("tokenizer.ggml.") and key.removeprefix("tokenizer.ggml.") in known)
        and value is not False
    ]
    if model in ("gpt2", "gemma4", "bert", "rwkv") and metadata.get("tokenizer.ggml.add_space_prefix") is True:
        unread.append("tokenizer.ggml.add_space_prefix")  # llama.cpp, too, has it for SentencePiece alone
    if unread:
        notice(f"{WHERE}: nothing here reads {', '.join(sorted(unread))}; they have no effect")


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata describes.

    Raises: TokenizerError where keys are missing or contradict each other, and for a model or pre-tokenizer that is
    unknown.
    """
    keys = Keys(metadata)
    model = scalar(metadata, "tokenizer.ggml.model", str, where=WHERE, error=TokenizerError)
    _name_unread(metadata, model)
    if model not in _KINDS:
        raise TokenizerError(
            f"the tokenizer model {model!r} is not supported" if model else "the file has no tokenizer",
            where="tokenizer.ggml.model",
            expected=", ".join(_KINDS),
            remedy="load the tokenizer from the model's Hugging Face folder instead",
        )
    return _KINDS[model](keys)


def _sentencepiece(keys: Keys, unigram: bool = False) -> SentencePieceTokenizer:
    """The vocabulary as a SentencePiece model again, so that SentencePiece itself merges by score, or finds the cut of
    the highest score.
    """
    usual = {"eos_token": 1, "unk_token": 2, "pad_token": 0} if unigram else _LLAMA_IDS
    config = keys.config(usual if len(keys.tokens) > 2 else {}, add_bos=not unigram, add_eos=unigram)
    unk = config.get("unk_token")
    if unk is None:
        raise TokenizerError("no unknown token", where="tokenizer.ggml.unknown_token_id")
    types = list(keys.types)
    for token_id, token in config["added_tokens_decoder"].items():
        types[token_id] = (
            UNKNOWN if token.content == unk else CONTROL
        )  # cut out beforehand, so the model must never make one
    types[keys.vocab[unk]] = UNKNOWN
    present = sum(kind == BYTE for kind in types)
    if present and (present != 256 or not keys.vocab.keys() >= set(TOKEN_OF_BYTE)):
        raise TokenizerError(
            "byte tokens are missing",
            where="tokenizer.ggml.tokens",
            expected="all 256, <0x00> to <0xFF>",
            received=present,
        )
    model = build_model(
        zip(keys.tokens, keys.scores(), (kind if kind in range(1, 7) else NORMAL for kind in types), strict=True),
        unk_piece=unk,
        bos_piece=config.get("bos_token", "<s>"),
        eos_piece=config.get("eos_token", "</s>"),
        byte_fallback=bool(present),
        add_dummy_prefix=keys.flag("add_space_prefix", not unigram),
        unigram=unigram,
        trims_spaces=unigram and keys.flag("remove_extra_whitespaces", False),
        charsmap=keys.charsmap() if unigram else b"",
    )
    return SentencePieceTokenizer(model, {"padding_side": "left", **config}, WHERE)


def _unigram(keys: Keys) -> SentencePieceTokenizer:
    return _sentencepiece(keys, unigram=True)


def _byte_level(keys: Keys) -> JsonTokenizer:
    name = keys.get("pre")
    if not isinstance(name, str):
        raise TokenizerError(
            "the file does not name its pre-tokenizer, and a guess would give wrong ids",
            where="tokenizer.ggml.pre",
            remedy="convert the model again with a current llama.cpp, or load its tokenizer.json",
        )
    return _bpe(keys, pre_tokenizer(name, "tokenizer.ggml.pre"))


def _gemma4(keys: Keys) -> JsonTokenizer:
    """Gemma 4's begin with BOS whatever the file says, which some say wrongly."""
    return _bpe(keys, pre_tokenizer("gemma4", WHERE), always_bos=True)


def _bpe(keys: Keys, pre: PreTokenizer, always_bos: bool = False) -> JsonTokenizer:
    config = keys.config({}, add_bos=pre.add_bos)
    backend = build_bpe(keys.vocab, keys.merges(), pre, WHERE, unk=config.get("unk_token"))
    config["add_bos_token"] |= always_bos
    tokenizer = JsonTokenizer(backend, config, WHERE)
    tokenizer._add_ends(
        config["add_bos_token"] and tokenizer.bos_token is not None,
        config["add_eos_token"] and tokenizer.eos_token is not None,
    )
    return tokenizer


def _word_piece(keys: Keys) -> JsonTokenizer:
    """BERT's: a word is the longest token that it begins with, and so on. GGUF marks what begins a word (``▁``) where
    WordPiece marks what does not (``##``).
    """
    usual = {"cls_token": 101, "unk_token": 100, "sep_token": 102, "pad_token": 0, "mask_token": 103}
    config = keys.config({name: place for name, place in usual.items() if place < len(keys.tokens)}, add_bos=True)
    vocab: dict[str, int] = {}
    for place, (token, kind) in enumerate(zip(keys.tokens, keys.types, strict=True)):
        if kind not in (CONTROL, UNKNOWN, USER_DEFINED):
            token = token.removeprefix("▁") if token.startswith("▁") else f"##{token}"
        if vocab.setdefault(token, place) != place:
            raise TokenizerError(f"the token {token!r} occurs twice", where=WHERE, received=f"id {place}")
    config["do_lower_case"] = keys.flag("normalizer.lowercase", True)
    config["strip_accents"] = keys.flag("normalizer.strip_accents", config["do_lower_case"])
    return word_piece(vocab, config, WHERE)


_KINDS: dict[str, Callable[[Keys], Tokenizer]] = {
    "llama": _sentencepiece,
    "gpt2": _byte_level,
    "gemma4": _gemma4,
    "t5": _unigram,
    "bert": _word_piece,
    "rwkv": rwkv_tokenizer,
}
