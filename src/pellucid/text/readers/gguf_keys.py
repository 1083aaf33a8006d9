"""The keys of ``tokenizer.ggml`` in GGUF metadata, checked: tokens, types, scores, merges, and what the config says.

Source: ggml-org/ggml, ``docs/gguf.md``; llama.cpp, ``src/llama-vocab.cpp`` (defaults, ends of generation).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from pellucid.base.errors import TokenizerError
from pellucid.base.typed import is_whole, shown
from pellucid.text.added_tokens import AddedToken
from pellucid.text.readers.byte_level_bpe import Merge
from pellucid.text.readers.sentencepiece_proto import CONTROL, NORMAL, UNKNOWN, USER_DEFINED

WHERE = "GGUF metadata"
Number = TypeVar("Number", int, float)
NAMES = {
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
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[", "<|user|>",
    "<|observation|>",
)  # fmt: skip


class Keys:
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
        if self.get("merges") == []:  # a vocabulary of bytes
            return []
        merges = [
            (merge[:1] + left, right)
            for merge in self._strings("merges")
            for left, _, right in [merge[1:].partition(" ")]
        ]
        for place, merge in enumerate(merges):
            if not merge[0] or not merge[1]:
                raise TokenizerError(
                    "a merge must be two tokens", where=f"tokenizer.ggml.merges, {place}", received=shown(merge)
                )
        return list(dict.fromkeys(merges))  # of one that is repeated, the first counts

    def charsmap(self) -> bytes:
        """How SentencePiece normalizes text, as its own files hold it; none is none."""
        values = self.get("precompiled_charsmap")
        if values is None:
            return b""
        try:
            return bytes(bytearray(int(value) & 0xFF for value in values))
        except (TypeError, ValueError, OverflowError):
            raise TokenizerError(
                "not a list of bytes", where="tokenizer.ggml.precompiled_charsmap", received=shown(values)
            ) from None

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
        if "<|return|>" in known or {"<|calls|>", "<|flush|>"} <= {*known}:
            known = [token for token in known if token != "<|end|>"]  # gpt-oss's, Solar's: the end of one message
        if "<|tool_response>" in known:
            known = [token for token in known if token != "</s>"]  # Gemma 4's is an ordinary token
        return list(dict.fromkeys(self.vocab[token] for token in (*named, *known) if token is not None))

    def config(self, defaults: Mapping[str, int], add_bos: bool, add_eos: bool = False) -> dict[str, Any]:
        """What tokenizer_config.json would say. ``defaults``: ids of named tokens where the file does not give them."""
        names = {name: self.token(key, defaults.get(name)) for name, key in NAMES.items()}
        context = _whole(self.metadata.get(f"{self.metadata.get('general.architecture')}.context_length"))
        return {
            **{name: token for name, token in names.items() if token is not None},
            "add_bos_token": self.flag("add_bos_token", add_bos),
            "add_eos_token": self.flag("add_eos_token", add_eos),
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
