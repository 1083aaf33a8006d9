"""Pieces: a text's tokens, each with the bytes and characters of the original text that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Span = tuple[int, int, int]  # (token id, first byte, end byte)


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of a text.

    ``text`` is the characters ``char_range`` covers: every character of which the token holds at least one byte, so the
    three tokens of a split ``"龘"`` show it three times and their ``byte_range`` tells them apart. Both ranges count
    from the beginning of the original text, end exclusive; a token that stands for none of it has an empty range.
    """

    id: int
    token: str
    text: str
    byte_range: tuple[int, int]
    char_range: tuple[int, int]


def make_pieces(text: str, spans: Sequence[Span], tokens: Sequence[str]) -> list[Piece]:
    """Pieces from spans in the UTF-8 of ``text``."""
    chars = char_ranges(text, spans)
    return [
        Piece(token_id, token, text[start:end], (first, last), (start, end))
        for (token_id, first, last), token, (start, end) in zip(spans, tokens, chars, strict=True)
    ]


def char_ranges(text: str, spans: Sequence[Span]) -> list[tuple[int, int]]:
    """For each span of bytes, the range of characters it touches."""
    if text.isascii():
        return [(first, last) for _, first, last in spans]
    char_of = char_of_byte(text)
    return [(char_of[first], char_of[last - 1] + 1 if last > first else char_of[first]) for _, first, last in spans]


def char_of_byte(text: str) -> list[int]:
    """The index of the character that each byte of the UTF-8 belongs to; one entry more, for the end."""
    owner: list[int] = []
    for index, character in enumerate(text):
        owner.extend([index] * len(character.encode("utf-8")))
    owner.append(len(text))
    return owner


def byte_of_char(text: str) -> list[int]:
    """The first byte of each character in the UTF-8; one entry more, for the end."""
    firsts, total = [0], 0
    for character in text:
        total += len(character.encode("utf-8"))
        firsts.append(total)
    return firsts
