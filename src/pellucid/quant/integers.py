"""Small integers packed into words, unpacked: a stream of bits, lowest first, without gaps or with gaps at words' ends.

Source: AutoGPTQ, qlinear_cuda.py, ``pack``; compressed-tensors, pack_quantized/helpers.py.
"""

from __future__ import annotations

import numpy as np


def from_stream(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """(N, W) integers → (N, count) uint8: number i begins at bit i · bits of its row; one may lie in two words."""
    stream = np.ascontiguousarray(words).view(np.uint8)  # little-endian: the row's bytes in order
    if bits == 8:
        return stream[:, :count]
    if bits in (1, 2, 4):
        each = np.empty((*stream.shape, 8 // bits), np.uint8)
        for place in range(8 // bits):
            each[..., place] = stream >> place * bits & (2**bits - 1)
        return each.reshape(len(stream), -1)[:, :count]
    each = np.unpackbits(stream, axis=1, count=bits * count, bitorder="little").reshape(len(stream), count, bits)
    return np.packbits(each, axis=2, bitorder="little")[..., 0]


def from_words(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The same where a word holds whole numbers only, ⌊32 / bits⌋ of them."""
    shifts = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    stream = np.ascontiguousarray(words).view(np.uint32)[..., None] >> shifts & np.uint32(2**bits - 1)
    return stream.reshape(len(words), -1)[:, :count].astype(np.uint8)


def stream_words(bits: int, count: int) -> int:
    """32-bit words that ``count`` numbers take."""
    return -(-bits * count // 32)


def to_stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """(N, count) uint8 → (N, W) int32, as ``from_stream`` reads it; bits of 1, 2, 4 or 8."""
    each = 8 // bits
    padded = np.zeros((len(codes), stream_words(bits, codes.shape[1]) * 4 * each), np.uint8)
    padded[:, : codes.shape[1]] = codes
    places = np.arange(each, dtype=np.uint8) * np.uint8(bits)
    stream = np.bitwise_or.reduce(padded.reshape(len(codes), -1, each) << places, axis=2)
    return np.ascontiguousarray(stream).view("<i4")
