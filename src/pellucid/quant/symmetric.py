"""Whole numbers, or floats of 8 bits, with one scale a group of a row's columns and no zero point: w ≈ scale · code.

    int4   −8 … 7        int8   −128 … 127        fp8 (E4M3)   −448 … 448

Of integers of few bits several scales are tried, and the one kept that loses least; codes are then rounded with the
scale as it is stored, so that nothing is lost twice.

Source: compressed-tensors, quantization/lifecycle/forward_helpers.py (_quantize); llm-compressor, observers/mse.py.
"""

from __future__ import annotations

import numpy as np

from pellucid.quant.bfloat16 import from_bfloat16, to_bfloat16
from pellucid.quant.float8 import LARGEST_E4M3, to_e4m3

TRIED = np.linspace(1.0, 0.6, 21, dtype=np.float32)  # of the scale with which nothing is cut off


def rounded(scale: np.ndarray, dtype: str) -> np.ndarray:
    """float32 scales as a float ``dtype`` stores them, float32 again. Those stored as float32 are float16's, too, where
    that costs no more than its rounding: an executor then keeps the matrix in blocks of so many bits.
    """
    if dtype == "bfloat16":
        return from_bfloat16(to_bfloat16(scale))
    with np.errstate(over="ignore"):
        half = scale.astype(np.float16).astype(np.float32)
    return half if dtype == "float16" else np.where(np.isfinite(half) & (half >= 2.0**-14), half, scale)


def integers(values: np.ndarray, bits: int, groups: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) float32 → codes (N, K) int8, scales (N, G) float32 that ``dtype`` holds."""
    most = 2 ** (bits - 1) - 1
    x = np.ascontiguousarray(values, np.float32).reshape(len(values), groups, -1)
    scale = np.abs(x).max(2) / np.float32(most)
    if bits < 8:
        scale = _least_loss(x, scale, most)
    scale = _stored(scale, dtype)
    codes = np.clip(np.rint(x / scale[..., None]), -most - 1, most)
    return codes.astype(np.int8).reshape(values.shape), scale


def _least_loss(x: np.ndarray, whole: np.ndarray, most: int) -> np.ndarray:
    """(N, G): of the scales tried, and the least-squares one of each's codes, the one with the least Σ (x − s q)²."""
    best, least = whole, np.full(whole.shape, np.inf, np.float32)
    safe = np.where(whole > 0, whole, np.float32(1))
    for part in TRIED:
        q = np.clip(np.rint(x / (safe * part)[..., None]), -most - 1, most)
        square = np.einsum("ngk,ngk->ng", q, q)
        along = np.einsum("ngk,ngk->ng", x, q)
        scale = np.where((square > 0) & (along > 0), along / np.where(square > 0, square, 1), safe * part)
        loss = scale * (scale * square - 2 * along)  # without Σ x², which all have
        best = np.where(loss < least, scale, best)
        least = np.minimum(loss, least)
    return np.where(whole > 0, best, np.float32(0))


def floats(values: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) float32 → bytes (N, K) uint8 of E4M3, scales (N, 1) float32 that ``dtype`` holds."""
    scale = _stored(np.abs(values).max(1, keepdims=True) / np.float32(LARGEST_E4M3), dtype)
    return to_e4m3(values / scale), scale


def _stored(scale: np.ndarray, dtype: str) -> np.ndarray:
    """As stored; 1 for a group of zeros, and for one so small that its scale would be stored as zero."""
    scale = rounded(scale, dtype)
    return np.where(scale > 0, scale, np.float32(1))
