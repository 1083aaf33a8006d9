"""Floats of 8 bits, looked up in a table of 256 values.

    float8_e4m3fn    1 sign, 4 exponent (bias 7), 3 fraction; no infinity, one NaN each sign; up to 448
    float8_e5m2      1 sign, 5 exponent (bias 15), 2 fraction: the upper half of a float16
    float8_e8m0fnu   2^(byte − 127), a scale; 255 is NaN

Source: Micikevicius et al. 2022, *FP8 Formats for Deep Learning* §3; Open Compute Project, *MX v1.0* §5.4.
"""

from __future__ import annotations

import numpy as np


def _e4m3fn() -> np.ndarray:
    byte = np.arange(256)
    exponent, fraction = byte >> 3 & 0xF, (byte & 7) / 8
    size = np.where(exponent == 0, fraction * 2.0**-6, (1 + fraction) * np.exp2(exponent - 7.0))
    size[(byte & 0x7F) == 0x7F] = np.nan
    return np.where(byte & 0x80, -size, size).astype(np.float32)


def _e5m2() -> np.ndarray:
    return (np.arange(256, dtype=np.uint16) << 8).view(np.float16).astype(np.float32)


def _e8m0fnu() -> np.ndarray:
    values = np.exp2(np.arange(256) - 127.0)
    values[255] = np.nan
    return values.astype(np.float32)


TABLES = {"float8_e4m3fn": _e4m3fn(), "float8_e5m2": _e5m2(), "float8_e8m0fnu": _e8m0fnu()}
LARGEST_E4M3 = 448.0


def to_e4m3(values: np.ndarray) -> np.ndarray:
    """float32 → bytes, to the nearest, ties to even; beyond ±448 it is ±448. A value that is no number stays none."""
    size = np.minimum(np.abs(values.astype(np.float32, copy=False)), np.float32(LARGEST_E4M3))
    bits = size.view(np.uint32)
    even = bits + (np.uint32(0x7FFFF) + (bits >> np.uint32(20) & np.uint32(1)))  # of 23 bits of fraction 3 are kept
    normal = (even >> np.uint32(20)) - np.uint32((127 - 7) << 3)
    small = np.rint(np.where(size < 2.0**-6, size, 0) * np.float32(2.0**9)).astype(np.uint32)
    code = np.where(np.isnan(values), np.uint32(0x7F), np.where(size < 2.0**-6, small, normal))
    return (code | np.where(np.signbit(values), np.uint32(0x80), np.uint32(0))).astype(np.uint8)
