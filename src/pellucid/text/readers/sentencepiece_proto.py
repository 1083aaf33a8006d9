"""The little of protocol buffers that SentencePiece needs: write a model, read one, read the pieces of an encoded text.

So vocabularies that SentencePiece trained but other formats hold (GGUF, llama2.c) run in SentencePiece again, exactly
as they were trained, and can be saved as a ``tokenizer.model``.

Source: google/sentencepiece, ``src/sentencepiece_model.proto``, ``src/sentencepiece.proto``; protobuf's encoding guide.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.base.errors import TokenizerError

# SentencePiece.Type; GGUF's token types are the same numbers.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_PIECES, _TRAINER_SPEC, _NORMALIZER_SPEC = 1, 2, 3  # fields of ModelProto
UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType
_KINDS = {UNIGRAM: "unigram", _BPE: "bpe", 3: "word", 4: "char"}


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _piece(piece: str, score: float, kind: int) -> bytes:
    return _bytes(_PIECES, _bytes(1, piece.encode("utf-8")) + b"\x15" + struct.pack("<f", score) + _number(3, kind))


def build_model(
    pieces: Iterable[tuple[str, float, int]],
    *,
    unk_piece: str,
    bos_piece: str,
    eos_piece: str,
    byte_fallback: bool,
    add_dummy_prefix: bool,
    unigram: bool = False,
    trims_spaces: bool = False,
    charsmap: bytes = b"",
) -> bytes:
    """A serialized ModelProto of kind BPE, or unigram, whose pieces are (text, score, type).

    Text is normalized by ``charsmap`` alone, which is SentencePiece's own: a double array, and replacements.
    """
    trainer = _number(3, UNIGRAM if unigram else _BPE) + _number(35, int(byte_fallback))
    trainer += (
        _bytes(45, unk_piece.encode("utf-8"))
        + _bytes(46, bos_piece.encode("utf-8"))
        + _bytes(47, eos_piece.encode("utf-8"))
    )
    model = b"".join([_piece(*piece) for piece in pieces]) + _bytes(_TRAINER_SPEC, trainer)
    spec = normalizer_spec(add_dummy_prefix=add_dummy_prefix, remove_extra_whitespaces=trims_spaces)
    return model + spec + (_bytes(_NORMALIZER_SPEC, _bytes(2, charsmap)) if charsmap else b"")


def unused_pieces(pieces: Iterable[str]) -> bytes:
    """A ModelProto with nothing but pieces of which no text is made; put before another, they have the first ids."""
    return b"".join([_piece(piece, 0.0, UNUSED) for piece in pieces])


def normalizer_spec(*, add_dummy_prefix: bool, remove_extra_whitespaces: bool | None = None) -> bytes:
    """A ModelProto with nothing but a normalizer; appended to another, its values replace the other's."""
    spec = _number(3, int(add_dummy_prefix))
    if remove_extra_whitespaces is not None:
        spec += _bytes(1, b"identity") + _number(4, int(remove_extra_whitespaces)) + _number(5, 1)
    return _bytes(_NORMALIZER_SPEC, spec)


@dataclass(frozen=True)
class SentencePieceModel:
    """What a ``tokenizer.model`` says of how it encodes."""

    kind: str  # unigram, bpe, word, char
    pieces: list[tuple[bytes, float, int]]  # text, score, type
    unknown_id: int
    falls_back_to_bytes: bool
    adds_space: bool
    trims_spaces: bool  # those at either end, and all but one of several
    escapes_spaces: bool  # written ▁
    space_last: bool  # ▁ ends a word instead of beginning it
    charsmap: tuple[
        np.ndarray, bytes
    ]  # what normalization replaces: a double array, and the replacements, each ended by a zero


def read_model(data: bytes) -> SentencePieceModel:
    """Raises: TokenizerError where it is no serialized ModelProto."""
    pieces: list[tuple[bytes, float, int]] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    try:
        for field, value in fields(data):
            if field == _PIECES:
                piece = dict(fields(value))
                pieces.append((piece[1], struct.unpack("<f", piece.get(2, bytes(4)))[0], piece.get(3, NORMAL)))
            elif field == _TRAINER_SPEC:
                trainer |= fields(value)
            elif field == _NORMALIZER_SPEC:
                normalizer |= fields(value)  # of several, later values hold
        return SentencePieceModel(
            kind=_KINDS.get(trainer.get(3, UNIGRAM), "unknown"),
            pieces=pieces,
            unknown_id=next(i for i, piece in enumerate(pieces) if piece[2] == UNKNOWN),
            falls_back_to_bytes=bool(trainer.get(35, 0)),
            adds_space=bool(normalizer.get(3, 1)),
            trims_spaces=bool(normalizer.get(4, 1)),
            escapes_spaces=bool(normalizer.get(5, 1)),
            space_last=bool(trainer.get(24, 0)),
            charsmap=_charsmap(normalizer.get(2, b"")),
        )
    except (IndexError, KeyError, TypeError, ValueError, StopIteration, struct.error) as error:
        raise TokenizerError(
            "not a SentencePiece model",
            received=type(error).__name__,
            remedy="the file may be truncated; download it again",
        ) from None


def _charsmap(data: bytes) -> tuple[np.ndarray, bytes]:
    """Source: sentencepiece, ``src/normalizer.cc``: the array's size in bytes, the array, the replacements."""
    if not data:
        return np.zeros(0, np.uint32), b""
    (size,) = struct.unpack_from("<I", data)
    if size % 4 or size > len(data) - 4:
        raise ValueError(size)
    return np.frombuffer(data, "<u4", size // 4, 4).astype(np.uint32), data[4 + size :] + b"\0"


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field, value) of a message; values are whole numbers or bytes."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        if tag & 7 == 0:
            value, at = _read_varint(data, at)
        else:
            size, at = _read_varint(data, at) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], at)
            if size > len(data) - at:
                raise ValueError(size)
            value, at = data[at : at + size], at + size
        yield tag >> 3, value


def read_pieces(text_proto: bytes) -> list[tuple[int, int, int]]:
    """(id, first byte, end byte) of each piece of a serialized SentencePieceText."""
    pieces: list[tuple[int, int, int]] = []
    at, end = 0, len(text_proto)
    while at < end:
        tag, at = _read_varint(text_proto, at)
        if tag & 7 == 2:
            length, at = _read_varint(text_proto, at)
            if tag >> 3 == 2:
                pieces.append(_read_piece(text_proto, at, at + length))
            at += length
        elif tag & 7 == 5:
            at += 4
        else:
            _, at = _read_varint(text_proto, at)
    return pieces


def _read_piece(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    numbers = {2: 0, 4: 0, 5: 0}  # id, begin, end; a field that is absent is 0
    while at < end:  # one byte each, nearly always: read here, not in a call
        tag, value, at = data[at], data[at + 1], at + 2
        if value > 0x7F:
            value, at = _read_varint(data, at - 1)
        if tag & 7 == 2:
            at += value
        elif tag >> 3 in numbers:
            numbers[tag >> 3] = value
    return numbers[2], numbers[4], numbers[5]


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
