"""GGML's blocks of weights that are a scale times a very small number: TQ1_0, TQ2_0, Q1_0, Q2_0.

    TQ1_0   256 weights   w = d·(q − 1)    q 0, 1 or 2, five in a byte
    TQ2_0   256 weights   w = d·(q − 1)    q 2 bits, planes as the K-quants'
    Q1_0    128 weights   w = d or −d      a bit each, 1: d; in order, the lowest of a byte first
    Q2_0     64 weights   w = d·(q − 1)    q 2 bits, likewise in order

TQ1_0's five are the digits of a fraction in base 3: byte = ⌈256/243 · Σ q_n 3^(4−n)⌉, so that multiplying by 3ⁿ (the
byte's overflow falls away) brings digit n to the front, where · 3 / 256 reads it. Its 48 bytes hold 5 · 32 and 5 · 16
weights, the last 4 bytes 4 · 4.

Source: ggml-common.h, block_tq1_0, block_tq2_0, block_q1_0, block_q2_0; ggml-quants.c, dequantize_row_*.
"""

from __future__ import annotations

import numpy as np

from pellucid.quant.k_quants import planes

LAYOUTS: dict[str, np.dtype] = {
    "tq1_0": np.dtype([("first", "u1", 32), ("second", "u1", 16), ("last", "u1", 4), ("d", "<f2")]),
    "tq2_0": np.dtype([("qs", "u1", (2, 32)), ("d", "<f2")]),
    "q1_0": np.dtype([("d", "<f2"), ("qs", "u1", 16)]),
    "q2_0": np.dtype([("d", "<f2"), ("qs", "u1", 16)]),
}


def _digits(stored: np.ndarray, count: int) -> np.ndarray:
    """Bytes (N, W) → their first ``count`` digits, (N, count · W): of all bytes the first, of all the second, …"""
    shifted = stored[:, None, :] * (3 ** np.arange(count)).astype(np.uint8)[:, None]  # the overflow falls away
    return (shifted.astype(np.uint16) * 3 >> 8).reshape(len(stored), -1)


def decode_tq1_0(blocks: np.ndarray, out: np.ndarray) -> None:
    """``blocks`` (N,) of the layout → ``out`` (N, 256) float32; so for all below."""
    out[:, :160] = _digits(blocks["first"], 5)
    out[:, 160:240] = _digits(blocks["second"], 5)
    out[:, 240:] = _digits(blocks["last"], 4)
    out -= 1
    out *= blocks["d"].astype(np.float32)[:, None]


def decode_tq2_0(blocks: np.ndarray, out: np.ndarray) -> None:
    out[:] = planes(blocks["qs"], 2)
    out -= 1
    out *= blocks["d"].astype(np.float32)[:, None]


def decode_q1_0(blocks: np.ndarray, out: np.ndarray) -> None:
    out[:] = np.unpackbits(blocks["qs"], axis=1, bitorder="little")
    out *= 2
    out -= 1
    out *= blocks["d"].astype(np.float32)[:, None]


def decode_q2_0(blocks: np.ndarray, out: np.ndarray) -> None:
    out[:] = (blocks["qs"][..., None] >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(len(blocks), 64)
    out -= 1
    out *= blocks["d"].astype(np.float32)[:, None]


DECODERS = {"tq1_0": decode_tq1_0, "tq2_0": decode_tq2_0, "q1_0": decode_q1_0, "q2_0": decode_q2_0}
