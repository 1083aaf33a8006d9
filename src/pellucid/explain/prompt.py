"""What a trace reads: one text or many, or ids, as one table with its mask; and how a token reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.explain.edits import SwapToken
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder


@dataclass(frozen=True)
class Prompt:
    """(B, T) ids, True where they are tokens, and the place of each in its own text."""

    token_ids: Tensor
    mask: Tensor
    position_ids: Tensor
    texts: list[str] | None
    tokenizer: Any
    _pieces: dict[int, str] = field(default_factory=dict, repr=False)

    def piece(self, token_id: int) -> str:
        if token_id not in self._pieces:
            self._pieces[token_id] = str(token_id) if self.tokenizer is None else piece_of(self.tokenizer, token_id)
        return self._pieces[token_id]

    def context(self, **settings: Any) -> Context:
        """What the decoder runs it with; ``settings`` are Context's."""
        return Context(self.position_ids, key_mask=None if bool(self.mask.all()) else self.mask, **settings)


def read_prompt(model: Decoder, tokenizer: Any, text: Any, swaps: Sequence[SwapToken] = ()) -> Prompt:
    """Raises: RequestError where there is nothing to read, or text without a tokenizer."""
    rows, mask, texts = _rows(tokenizer, text)
    if not rows or not any(rows):
        raise RequestError("there is nothing to trace", expected="a text of at least one token, or token ids")
    token_ids, mask = torch.tensor(rows, device=model.device), torch.tensor(mask, dtype=torch.bool, device=model.device)
    for swap in swaps:
        _swap(token_ids, tokenizer, swap)
    return Prompt(token_ids, mask, (mask.cumsum(1) - 1).clamp(min=0), None if swaps else texts, tokenizer)


def _rows(tokenizer: Any, text: Any) -> tuple[list[list[int]], list[list[bool]], list[str] | None]:
    if isinstance(text, Tensor):
        text = text.tolist()
    many = list(text) if not isinstance(text, str) else [text]
    if many and isinstance(many[0], str):
        if tokenizer is None:
            raise RequestError("a text needs a tokenizer", remedy="pass the model's tokenizer, or token ids")
        encoded = tokenizer(many, padding=len(many) > 1 and tokenizer.pad_token_id is not None)
        rows, masks = encoded["input_ids"], encoded.get("attention_mask")
        if masks is not None and len({len(row) for row in rows}) == 1:
            return rows, [[bool(seen) for seen in row] for row in masks], many
        return *_padded(rows), many
    rows = [many] if many and isinstance(many[0], int) else [list(row) for row in many]
    return *_padded(rows), None


def _padded(rows: Sequence[list[Any]]) -> tuple[list[list[int]], list[list[bool]]]:
    """On the right, with id 0: what padding reads never matters, since nothing looks at it."""
    length = max((len(row) for row in rows), default=0)
    if any(not row for row in rows):
        raise RequestError("a text of the batch has no tokens")
    return [row + [0] * (length - len(row)) for row in rows], [
        [True] * len(row) + [False] * (length - len(row)) for row in rows
    ]


def _swap(token_ids: Tensor, tokenizer: Any, swap: SwapToken) -> None:
    length = token_ids.shape[1]
    if not -length <= swap.position < length:
        raise RequestError(
            "there is no such position to swap", expected=f"{-length} to {length - 1}", received=swap.position
        )
    token = swap.token
    if isinstance(token, str):
        ids = tokenizer(token, add_special_tokens=False)["input_ids"] if tokenizer is not None else []
        if len(ids) != 1:
            raise RequestError(
                f"{token!r} is not one token",
                received=ids,
                remedy="give a token id, or a text that is one token (a space may count)",
            )
        token = ids[0]
    if swap.row is None:
        token_ids[:, swap.position] = token
    else:
        token_ids[swap.row, swap.position] = token


def piece_of(tokenizer: Any, token_id: int) -> str:
    """How a token reads inside a text, with its leading space; bytes that are no whole character as ``<0xE4BD>``."""
    if token_id >= len(tokenizer):
        return f"[{token_id}]"  # the output layer may be wider than the vocabulary
    alone, token = tokenizer.decode([token_id]), tokenizer.convert_ids_to_tokens(token_id)
    if token is None:
        return f"[{token_id}]"  # a number that the vocabulary leaves out
    if alone == token:  # special tokens, and those without a space
        return token
    text = tokenizer.decode([token_id, token_id])[len(alone) :]  # the first token of a text may lose its space
    if text and "\ufffd" not in text:
        return text
    return _bytes_of(token) or token


_BYTES = re.compile("<0x((?:[0-9A-F]{2})+)>")


def spelled(pieces: Sequence[str]) -> list[str]:
    """The tokens of a text, end to end, as one reads them: of a character that several share, each has the character
    and names the bytes that are its own: ``你‹E4 BD›``, ``你‹A0›``.

    A character that the text does not hold whole stays as its bytes.
    """
    named, start = list(pieces), 0
    while start < len(pieces):
        if not _BYTES.search(pieces[start]):
            start += 1
            continue
        stop = next(
            (i for i in range(start + 1, len(pieces) + 1) if _decoded(pieces[start:i]) is not None), None
        )  # the shortest stretch that is text
        if stop is None:
            start += 1
            continue
        named[start:stop] = _shared(pieces[start:stop])
        start = stop
    return named


def _shared(pieces: Sequence[str]) -> Iterator[str]:
    """Pieces that make text together, each by the characters that it holds a part of."""
    text, edges = _decoded(pieces) or "", [0]
    for char in text:
        edges.append(edges[-1] + len(char.encode()))
    start = 0
    for piece in pieces:
        raw = raw_bytes(piece)
        stop, parts = start + len(raw), []
        for char, low, high in zip(text, edges, edges[1:], strict=False):
            inside = raw[max(low, start) - start : min(high, stop) - start] if low < stop and high > start else b""
            parts += [char if len(inside) == high - low else f"{char}‹{inside.hex(' ').upper()}›"] if inside else []
        yield "".join(parts)
        start = stop


def raw_bytes(piece: str) -> bytes:
    """What a piece stands for, its named bytes as bytes."""
    raw, end = b"", 0
    for match in _BYTES.finditer(piece):
        raw += piece[end : match.start()].encode() + bytes.fromhex(match[1])
        end = match.end()
    return raw + piece[end:].encode()


def _decoded(pieces: Sequence[str]) -> str | None:
    try:
        return b"".join(map(raw_bytes, pieces)).decode()
    except UnicodeDecodeError:
        return None


def _bytes_of(token: str) -> str | None:
    """A byte-level token that is part of a character, as its bytes."""
    raw = byte_level(token)
    if raw is None:
        return None
    text = raw.decode("utf-8", "surrogateescape")
    return re.sub(
        "[\udc80-\udcff]+", lambda match: "<0x" + "".join(f"{ord(char) - 0xDC00:02X}" for char in match[0]) + ">", text
    )


def byte_level(token: str) -> bytes | None:
    """The bytes of a token that a byte-level vocabulary spells with a character for each; None where it is none."""
    from pellucid.text.readers.byte_level import BYTE_OF_CHAR

    return None if any(char not in BYTE_OF_CHAR for char in token) else bytes(BYTE_OF_CHAR[char] for char in token)
