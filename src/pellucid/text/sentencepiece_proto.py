"""The little of protocol buffers that SentencePiece needs: write a model, read the pieces of an encoded text.

So vocabularies that SentencePiece trained but other formats hold (GGUF, llama2.c) run in SentencePiece again, exactly as
they were trained, and can be saved as a ``tokenizer.model``.

Source: google/sentencepiece, ``src/sentencepiece_model.proto``, ``src/sentencepiece.proto``; protobuf's encoding guide.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

# SentencePiece.Type; GGUF's token types are the same numbers.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_PIECES, _TRAINER_SPEC, _NORMALIZER_SPEC = 1, 2, 3  # fields of ModelProto
_BPE = 2  # TrainerSpec.ModelType


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
) -> bytes:
    """A serialized ModelProto of kind BPE whose pieces are (text, score, type), without normalization of text."""
    trainer = _number(3, _BPE) + _number(35, int(byte_fallback))
    trainer += _bytes(45, unk_piece.encode("utf-8")) + _bytes(46, bos_piece.encode("utf-8")) + _bytes(47, eos_piece.encode("utf-8"))
    model = b"".join([_piece(*piece) for piece in pieces]) + _bytes(_TRAINER_SPEC, trainer)
    return model + normalizer_spec(add_dummy_prefix=add_dummy_prefix, remove_extra_whitespaces=False)


def normalizer_spec(*, add_dummy_prefix: bool, remove_extra_whitespaces: bool | None = None) -> bytes:
    """A ModelProto with nothing but a normalizer; appended to another, its values replace the other's."""
    spec = _number(3, int(add_dummy_prefix))
    if remove_extra_whitespaces is not None:
        spec += _bytes(1, b"identity") + _number(4, int(remove_extra_whitespaces)) + _number(5, 1)
    return _bytes(_NORMALIZER_SPEC, spec)


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
