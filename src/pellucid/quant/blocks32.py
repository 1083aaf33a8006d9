"""GGML's blocks of 32 weights: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1.

Each block holds a float16 scale ``d`` (and a minimum ``m`` in the ``_1`` formats) and 32 small integers q:

    Q8_0   w = d · q            q a signed byte
    Q4_0   w = d · (q − 8)      Q5_0   w = d · (q − 16)
    Q4_1   w = d · q + m        Q5_1   w = d · q + m

4-bit: byte j of ``qs`` holds weight j in its low half and weight j + 16 in its high half. 5-bit: the fifth bit of
weight j is bit j of ``qh`` (little-endian).

Source: ggml-common.h, block_q8_0 … block_q5_1; ggml-quants.c, dequantize_row_* and quantize_row_*_ref.
"""

from __future__ import annotations

import numpy as np

from pellucid.quant import search

LAYOUTS: dict[str, np.dtype] = {
    "q8_0": np.dtype([("d", "<f2"), ("qs", "i1", 32)]),
    "q4_0": np.dtype([("d", "<f2"), ("qs", "u1", 16)]),
    "q4_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", 16)]),
    "q5_0": np.dtype([("d", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)]),
    "q5_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)]),
}


def _column(blocks: np.ndarray, name: str) -> np.ndarray:
    return blocks[name].astype(np.float32)[:, None]  # (N, 1)


def _unpack4(blocks: np.ndarray, out: np.ndarray) -> None:
    out[:, :16] = blocks["qs"] & 0x0F
    out[:, 16:] = blocks["qs"] >> 4


def _unpack5(blocks: np.ndarray, out: np.ndarray) -> None:
    high = np.unpackbits(blocks["qh"], axis=1, bitorder="little") << 4  # (N, 32)
    out[:, :16] = blocks["qs"] & 0x0F | high[:, :16]
    out[:, 16:] = blocks["qs"] >> 4 | high[:, 16:]


def decode_q8_0(blocks: np.ndarray, out: np.ndarray) -> None:
    """``blocks`` (N,) of the layout → ``out`` (N, 32) float32; so for all below."""
    np.multiply(blocks["qs"], _column(blocks, "d"), out=out)


def decode_q4_0(blocks: np.ndarray, out: np.ndarray) -> None:
    _unpack4(blocks, out)
    out -= 8
    out *= _column(blocks, "d")


def decode_q4_1(blocks: np.ndarray, out: np.ndarray) -> None:
    _unpack4(blocks, out)
    out *= _column(blocks, "d")
    out += _column(blocks, "m")


def decode_q5_0(blocks: np.ndarray, out: np.ndarray) -> None:
    _unpack5(blocks, out)
    out -= 16
    out *= _column(blocks, "d")


def decode_q5_1(blocks: np.ndarray, out: np.ndarray) -> None:
    _unpack5(blocks, out)
    out *= _column(blocks, "d")
    out += _column(blocks, "m")


def _inverse(scale: np.ndarray) -> np.ndarray:
    """1 / scale; 0 where the scale is 0 or so small that its inverse overflows (as float16 it is 0 in any case)."""
    inverse = 1 / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _pack4(q: np.ndarray, blocks: np.ndarray) -> None:
    """Rounded-down ``q`` (N, 32) float32, capped at 15, into ``qs``."""
    small = np.minimum(q, 15).astype(np.uint8)
    blocks["qs"] = small[:, :16] | small[:, 16:] << 4


def _pack5(q: np.ndarray, blocks: np.ndarray) -> None:
    """Rounded-down ``q`` (N, 32) float32, capped at 31, into ``qs`` and ``qh``."""
    small = np.minimum(q, 31).astype(np.uint8)
    blocks["qs"] = small[:, :16] & 15 | (small[:, 16:] & 15) << 4
    blocks["qh"] = np.packbits(small >> 4, axis=1, bitorder="little")


def encode_q8_0(values: np.ndarray, blocks: np.ndarray, weights: np.ndarray | None = None) -> None:
    """``values`` (N, 32) float32 → ``blocks`` (N,) of the layout; so for all below. d = max |w| / 127.

    ``weights``, of the values' shape: how much each one's error counts, and the scale is searched by it; here a scale
    that loses nothing at the ends is as good as any.
    """
    scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    scaled = values * _inverse(scale)
    size = np.abs(scaled)
    whole = np.floor(size)
    whole += size - whole >= 0.5  # C's roundf: halves away from zero
    blocks["d"] = scale[:, 0]
    blocks["qs"] = np.copysign(whole, scaled)


def encode_q4_0(values: np.ndarray, blocks: np.ndarray, weights: np.ndarray | None = None) -> None:
    """d = w / −8 for the w of largest magnitude, so that it becomes exactly q = 0."""
    _pack4(_with_scale(values, blocks, weights, 8), blocks)


def encode_q5_0(values: np.ndarray, blocks: np.ndarray, weights: np.ndarray | None = None) -> None:
    _pack5(_with_scale(values, blocks, weights, 16), blocks)


def encode_q4_1(values: np.ndarray, blocks: np.ndarray, weights: np.ndarray | None = None) -> None:
    """d = (max w − min w) / 15, m = min w."""
    _pack4(_with_minimum(values, blocks, weights, 15), blocks)


def encode_q5_1(values: np.ndarray, blocks: np.ndarray, weights: np.ndarray | None = None) -> None:
    _pack5(_with_minimum(values, blocks, weights, 31), blocks)


def _with_scale(values: np.ndarray, blocks: np.ndarray, weights: np.ndarray | None, most: int) -> np.ndarray:
    """Writes d; returns q before it is rounded down."""
    if weights is not None:
        blocks["d"], q = search.signed(values.T.copy(), weights.T.copy(), most)
        return q.T
    largest = np.abs(values).argmax(axis=1)[:, None]
    scale = (np.take_along_axis(values, largest, axis=1) + np.float32(0)) / np.float32(-most)
    blocks["d"] = scale[:, 0]
    return values * _inverse(scale) + np.float32(most + 0.5)


def _with_minimum(values: np.ndarray, blocks: np.ndarray, weights: np.ndarray | None, most: int) -> np.ndarray:
    """Writes d and m; returns q before it is rounded down."""
    if weights is not None:
        blocks["d"], minimum, q = search.with_minimum(
            values.T.copy(), weights.T.copy(), most, start=-0.9, step=0.05, num_steps=36
        )
        blocks["m"] = -minimum
        return q.T
    least = values.min(axis=1, keepdims=True)
    scale = (values.max(axis=1, keepdims=True) - least) / np.float32(most)
    blocks["d"] = scale[:, 0]
    blocks["m"] = least[:, 0]
    return (values - least) * _inverse(scale) + np.float32(0.5)


DECODERS = {"q8_0": decode_q8_0, "q4_0": decode_q4_0, "q4_1": decode_q4_1, "q5_0": decode_q5_0, "q5_1": decode_q5_1}
ENCODERS = {"q8_0": encode_q8_0, "q4_0": encode_q4_0, "q4_1": encode_q4_1, "q5_0": encode_q5_0, "q5_1": encode_q5_1}
