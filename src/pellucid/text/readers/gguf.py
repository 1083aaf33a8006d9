"""Tokenizers inside GGUF files, from their metadata: SentencePiece vocabularies (``llama``) and byte-level BPE
(``gpt2``).

Source: ggml-org/ggml, ``docs/gguf.md``; llama.cpp, ``src/llama-vocab.cpp`` (defaults, ends of generation).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from pellucid.base.errors import TokenizerError
from pellucid.base.notice import notice
from pellucid.base.typed import is_whole, scalar, shown
from pellucid.text.added_tokens import AddedToken
from pellucid.text.readers.byte_level_bpe import Merge, build_bpe
from pellucid.text.readers.byte_tokens import TOKEN_OF_BYTE
from pellucid.text.readers.pre_tokenizers import pre_tokenizer
from pellucid.text.readers.sentencepiece_model import SentencePieceTokenizer
from pellucid.text.readers.sentencepiece_proto import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, build_model
from pellucid.text.readers.tokenizer_json import JsonTokenizer
from pellucid.text.tokenizer import Tokenizer

WHERE = "GGUF metadata"
Number = TypeVar("Number", int, float)
_NAMES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",  # spelled so in the format
    "mask_token": "mask_token_id",
    "cls_token": "cls_token_id",
}
_NEEDED = ("bos_token_id", "eos_token_id", "unknown_token_id")
# Tokens that end an answer under whatever name a file has them: it rarely says which do.
_ENDS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>",
    "<|end_of_text|>", "<｜end▁of▁sentence｜>", "<|user|>", "<|observation|>",
)  # fmt: skip


# Keys under ``tokenizer.`` that are read, or that change no id and no text: infilling's tokens, copies of the whole.
_READ = {
    *_NAMES.values(), "model", "pre", "tokens", "token_type", "scores", "merges", "eot_token_id", "eom_token_id",
    "add_bos_token", "add_eos_token", "add_space_prefix", "token_type_count", "prefix_token_id", "suffix_token_id",
    "middle_token_id", "separator_token_id",
}  # fmt: skip
_HARMLESS = ("tokenizer.chat_template", "tokenizer.ggml.fim_", "tokenizer.huggingface.json")


def _name_unread(metadata: Mapping[str, Any], model: object) -> None:
    """Say which keys of the tokenizer are not read, where they ask for something."""
    unread = [
        key
        for key, value in metadata.items()
        if key.startswith("tokenizer.")
        and not key.startswith(_HARMLESS)
        and not (key.startswith("tokenizer.ggml.") and key.removeprefix("tokenizer.ggml.") in _READ)
        and value is not False
    ]
    if model == "gpt2" and metadata.get("tokenizer.ggml.add_space_prefix") is True:
        unread.append("tokenizer.ggml.add_space_prefix")  # llama.cpp, too, has it for SentencePiece alone
    if unread:
        notice(f"{WHERE}: nothing here reads {', '.join(sorted(unread))}; they have no effect")


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata describes.

    Raises: TokenizerError where keys are missing or contradict each other, and for a model or pre-tokenizer that is
    unknown.
    """
    reader = _Reader(metadata)
    model = scalar(metadata, "tokenizer.ggml.model", str, where=WHERE, error=TokenizerError)
    _name_unread(metadata, model)
    if model == "llama":
        return _sentencepiece(reader)
    if model == "gpt2":
        return _byte_level(reader)
    raise TokenizerError(
        f"the tokenizer model {model!r} is not supported" if model else "the file has no tokenizer",
        where="tokenizer.ggml.model",
        expected="llama (SentencePiece) or gpt2 (byte-level BPE)",
        remedy="load the tokenizer from the model's Hugging Face folder instead",
    )


class _Reader:
    """The keys of ``tokenizer.ggml``, checked."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata
        self.tokens = [token or f"[EMPTY_{place}]" for place, token in enumerate(self._strings("tokens"))]
        self.vocab: dict[str, int] = {}
        for place, token in enumerate(self.tokens):
            if self.vocab.setdefault(token, place) != place:
                raise TokenizerError(
                    f"the token {token!r} occurs twice", where=WHERE, received=f"ids {self.vocab[token]} and {place}"
                )
        self.types = self._numbers("token_type", int, [NORMAL] * len(self.tokens))

    def get(self, key: str, default: Any = None) -> Any:
        return self.metadata.get(f"tokenizer.ggml.{key}", default)

    def flag(self, key: str, default: bool) -> bool:
        """A key that is true or false; 0 and 1 are in use as well."""
        value = self.get(key, default)
        if not isinstance(value, bool) and not (is_whole(value) and value in (0, 1)):
            raise TokenizerError("neither true nor false", where=f"tokenizer.ggml.{key}", received=shown(value))
        return bool(value)

    def _strings(self, key: str) -> list[str]:
        values = self.get(key)
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise TokenizerError(
                "the list is missing",
                where=f"tokenizer.ggml.{key}",
                expected="a list of strings",
                received=shown(values),
            )
        values = list(values)
        if not values or not all(isinstance(value, str) for value in values):
            raise TokenizerError("not a list of strings", where=f"tokenizer.ggml.{key}")
        return values

    def _numbers(self, key: str, number: type[Number], default: list[Number] | None = None) -> list[Number]:
        """A list of numbers, one a token."""
        where = f"tokenizer.ggml.{key}"
        values = self.get(key)
        if values is None and default is not None:
            return default
        if values is None or not hasattr(values, "__len__") or len(values) != len(self.tokens):
            raise TokenizerError(
                "not as many as tokens", where=where, expected=len(self.tokens), received=shown(values)
            )
        try:
            return [number(value) for value in (values.tolist() if hasattr(values, "tolist") else values)]
        except (TypeError, ValueError, OverflowError):
            raise TokenizerError("not a list of numbers", where=where, received=shown(values)) from None

    def scores(self) -> list[float]:
        scores = self._numbers("scores", float)
        if any(score != score for score in scores):
            raise TokenizerError("a score is not a number", where="tokenizer.ggml.scores")
        return scores

    def merges(self) -> list[Merge]:
        merges = [tuple(merge.split(" ")) for merge in self._strings("merges")]
        for place, merge in enumerate(merges):
            if len(merge) != 2 or not merge[0] or not merge[1]:
                raise TokenizerError(
                    "a merge must be two tokens", where=f"tokenizer.ggml.merges, {place}", received=shown(merge)
                )
        return merges  # pyright: ignore[reportReturnType]  # each of two, as just checked

    def token(self, key: str, default: int | None = None) -> str | None:
        """The token that a key's id names; None for a bad id of one that encoding can do without (files with such are
        in use).
        """
        token_id = self.get(key, default)
        number = _whole(token_id)
        if number is not None and 0 <= number < len(self.tokens):
            return self.tokens[number]
        if token_id is None or key not in _NEEDED:
            return None
        expected = f"0 to {len(self.tokens) - 1}"
        raise TokenizerError(
            "no token has this id", where=f"tokenizer.ggml.{key}", expected=expected, received=shown(token_id)
        )

    def added_tokens(self) -> dict[int, AddedToken]:
        kinds = (UNKNOWN, CONTROL, USER_DEFINED)
        return {
            place: AddedToken(self.tokens[place], special=kind != USER_DEFINED, normalized=False)
            for place, kind in enumerate(self.types)
            if kind in kinds
        }

    def stop_token_ids(self) -> list[int]:
        named = [self.token(f"{name}_token_id") for name in ("eos", "eot", "eom")]
        known = [
            token for token in _ENDS if token in self.vocab and self.types[self.vocab[token]] in (CONTROL, USER_DEFINED)
        ]
        if "<|return|>" in known:  # gpt-oss ends an answer so; its <|end|> only ends one of the answer's messages
            known = [token for token in known if token != "<|end|>"]
        return list(dict.fromkeys(self.vocab[token] for token in (*named, *known) if token is not None))

    def config(self, defaults: Mapping[str, int], add_bos: bool) -> dict[str, Any]:
        """What tokenizer_config.json would say. ``defaults``: ids of named tokens where the file does not give them."""
        names = {name: self.token(key, defaults.get(name)) for name, key in _NAMES.items()}
        context = _whole(self.metadata.get(f"{self.metadata.get('general.architecture')}.context_length"))
        return {
            **{name: token for name, token in names.items() if token is not None},
            "add_bos_token": self.flag("add_bos_token", add_bos),
            "add_eos_token": self.flag("add_eos_token", False),
            "added_tokens_decoder": self.added_tokens(),
            "chat_template": self._chat_template(),
            "stop_token_ids": self.stop_token_ids(),
            **({"model_max_length": context} if context and context > 0 else {}),
        }

    def _chat_template(self) -> str | dict[str, str] | None:
        start = "tokenizer.chat_template"
        named = {
            key[len(start) + 1 :]: value
            for key, value in self.metadata.items()
            if key.startswith(start + ".") and isinstance(value, str)
        }
        default = self.metadata.get(start)
        default = default if isinstance(default, str) else None
        if not named:
            return default
        return {"default": default, **named} if default else named


def _whole(value: Any) -> int | None:
    """A whole number as Python's or numpy's; None for anything else, an array of one number included."""
    return int(value) if hasattr(value, "__index__") and not isinstance(value, (bool, np.ndarray)) else None


def _sentencepiece(reader: _Reader) -> SentencePieceTokenizer:
    """The vocabulary as a SentencePiece model again, so that SentencePiece itself merges by score."""
    config = reader.config(
        {"bos_token": 1, "eos_token": 2, "unk_token": 0} if len(reader.tokens) > 2 else {}, add_bos=True
    )
    unk = config.get("unk_token")
    if unk is None:
        raise TokenizerError("no unknown token", where="tokenizer.ggml.unknown_token_id")
    types = list(reader.types)
    for token_id, token in config["added_tokens_decoder"].items():
        types[token_id] = (
            UNKNOWN if token.content == unk else CONTROL
        )  # cut out beforehand, so the model must never make one
    types[reader.vocab[unk]] = UNKNOWN
    present = sum(kind == BYTE for kind in types)
    if present and (present != 256 or not reader.vocab.keys() >= set(TOKEN_OF_BYTE)):
        raise TokenizerError(
            "byte tokens are missing",
            where="tokenizer.ggml.tokens",
            expected="all 256, <0x00> to <0xFF>",
            received=present,
        )
    model = build_model(
        zip(reader.tokens, reader.scores(), (kind if kind in range(1, 7) else NORMAL for kind in types), strict=True),
        unk_piece=unk,
        bos_piece=config.get("bos_token", "<s>"),
        eos_piece=config.get("eos_token", "</s>"),
        byte_fallback=bool(present),
        add_dummy_prefix=reader.flag("add_space_prefix", True),
    )
    return SentencePieceTokenizer(model, {"padding_side": "left", **config}, WHERE)


def _byte_level(reader: _Reader) -> JsonTokenizer:
    name = reader.get("pre")
    if not isinstance(name, str):
        raise TokenizerError(
            "the file does not name its pre-tokenizer, and a guess would give wrong ids",
            where="tokenizer.ggml.pre",
            remedy="convert the model again with a current llama.cpp, or load its tokenizer.json",
        )
    pre = pre_tokenizer(name, "tokenizer.ggml.pre")
    config = reader.config({}, add_bos=pre.add_bos)
    backend = build_bpe(reader.vocab, reader.merges(), pre, WHERE)
    tokenizer = JsonTokenizer(backend, config, WHERE)
    tokenizer._add_ends(
        config["add_bos_token"] and tokenizer.bos_token is not None,
        config["add_eos_token"] and tokenizer.eos_token is not None,
    )
    return tokenizer
