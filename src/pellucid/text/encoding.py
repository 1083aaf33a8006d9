"""What a tokenizer returns: ids by text, cut to a length, padded to a table, as lists or arrays.

Truncation and padding are plain functions on lists, the same for every backend; names and results are Hugging Face's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pellucid.base.errors import TokenizerError

PAD_VALUES: dict[str, Any] = {
    "attention_mask": 0,
    "position_ids": 0,
    "offset_mapping": (0, 0),
    "assistant_masks": 0,
    "labels": -100,
    "special_tokens_mask": 1,
    "token_type_ids": 0,
}


_PIECES = "tokenizer.pieces(text) has each token with its bytes and characters"
ELSEWHERE = {
    "tokens": "tokenizer.convert_ids_to_tokens(encoding.input_ids)",
    "encodings": _PIECES,
    "words": _PIECES,
    "word_ids": _PIECES,
    "token_to_word": _PIECES,
    "word_to_tokens": _PIECES,
    "char_to_word": _PIECES,
    "char_to_token": "tokenizer(text, return_offsets_mapping=True)",
    "token_to_chars": "tokenizer(text, return_offsets_mapping=True)",
    "sequence_ids": "tokenizer(text, return_special_tokens_mask=True)",
}


@dataclass(slots=True)
class Encoded:
    """One text (or pair of texts) as token ids."""

    ids: list[int]
    offsets: list[tuple[int, int]] | None = (
        None  # characters [start, end) of each token's own text; (0, 0) for specials
    )
    sequence: list[int | None] | None = None  # 0: from the text, 1: from its pair, None: added by the tokenizer


class BatchEncoding(dict[str, Any]):
    """A dict of columns (``input_ids``, ``attention_mask``, …), readable as attributes too."""

    def __getattr__(self, name: str) -> Any:
        if name in ELSEWHERE:
            raise AttributeError(f"an encoding has no {name!r} here → {ELSEWHERE[name]}")
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the encoding has no {name}; it has {', '.join(self)}") from None

    def __missing__(self, name: Any) -> Any:
        if isinstance(name, (int, slice)):
            raise KeyError(
                f"an encoding has columns, not rows → encoding.input_ids[{name!r}], or tokenizer.pieces(text)"
            )
        raise KeyError(name)

    @property
    def data(self) -> dict[str, Any]:
        return dict(self)

    def to(self, device: Any, *, non_blocking: bool = False) -> BatchEncoding:
        """Move the torch tensors in it to ``device``; returns itself, as in Hugging Face."""
        for name, value in self.items():
            if hasattr(value, "to"):
                self[name] = value.to(device=device, non_blocking=non_blocking)
        return self

    def convert_to_tensors(self, tensor_type: str | None) -> BatchEncoding:
        """Turn every column into an int64 array: ``"np"`` or ``"pt"``.

        Raises: TokenizerError where the rows differ in length.
        """
        if tensor_type is None:
            return self
        if tensor_type not in ("np", "pt"):
            raise TokenizerError("return_tensors is unknown", expected="'np' or 'pt'", received=repr(tensor_type))
        import numpy as np

        for name, rows in self.items():
            if hasattr(rows, "shape"):
                continue
            lengths = {len(row) for row in rows if isinstance(row, Sequence)}
            if len(lengths) > 1:
                raise TokenizerError(
                    f"{name}: the texts differ in length, so they are no table",
                    received=f"{min(lengths)} to {max(lengths)} tokens",
                    remedy="pass padding=True, and truncation=True with max_length to bound it",
                )
            self[name] = np.asarray(rows, dtype=np.int64)
        if tensor_type == "pt":
            import torch

            for name, rows in self.items():
                self[name] = torch.as_tensor(rows)
        return self


def truncate(encoded: Encoded, max_length: int, strategy: str, side: str) -> Encoded:
    """Drop tokens of the texts, never the added special ones, until at most ``max_length`` are left.

    ``longest_first`` shortens the longer text of a pair; ``only_first`` and ``only_second`` shorten that one. The end
    is dropped, or the beginning where ``side`` is ``left``.

    Raises: TokenizerError where the special tokens alone, or the text that may not be cut, are longer.
    """
    excess = len(encoded.ids) - max_length
    if excess <= 0:
        return encoded
    sequence = encoded.sequence or [0] * len(encoded.ids)
    lengths = [sequence.count(0), sequence.count(1)]
    room = max_length - (len(sequence) - sum(lengths))
    if room < 0:
        raise TokenizerError(
            "max_length leaves no room for the special tokens",
            expected=f"at least {max_length - room}",
            received=max_length,
        )
    if strategy == "longest_first":
        kept = _share(lengths, room)
    else:
        which = {"only_first": 0, "only_second": 1}[strategy]
        kept = list(lengths)
        kept[which] -= excess
        if kept[which] < 0:
            raise TokenizerError(
                f"truncation={strategy!r} cannot reach max_length",
                expected=f"at most {max_length} tokens",
                received=len(encoded.ids),
            )
    keep: list[int] = []
    seen = [0, 0]
    for index, which in enumerate(sequence):
        if which is not None:
            place = seen[which]
            seen[which] += 1
            inside = place < kept[which] if side == "right" else place >= lengths[which] - kept[which]
            if not inside:
                continue
        keep.append(index)
    return Encoded(
        [encoded.ids[i] for i in keep],
        None if encoded.offsets is None else [encoded.offsets[i] for i in keep],
        [sequence[i] for i in keep],
    )


def _share(lengths: Sequence[int], room: int) -> list[int]:
    """How much of each text of a pair stays when the longer is cut first. Source: tokenizers, utils/truncation.rs."""
    short, long = sorted(lengths)
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short, long = room // 2, room // 2 + room % 2
    return [short, long] if lengths[0] <= lengths[1] else [long, short]


def pad_columns(columns: dict[str, list[list[Any]]], length: int, side: str, pad_token_id: int) -> None:
    """Pad every row of every column to ``length`` in place; rows that are longer stay as they are."""
    for name, rows in columns.items():
        value = pad_token_id if name == "input_ids" else PAD_VALUES.get(name, 0)
        for index, row in enumerate(rows):
            filling = [value] * (length - len(row))
            rows[index] = [*row, *filling] if side == "right" else [*filling, *row]
