"""bfloat16: the upper 16 bits of a float32 (1 sign, 8 exponent, 7 fraction), stored as uint16, which numpy can name."""

from __future__ import annotations

import numpy as np

_CHUNK = 2**18  # elements rounded at a time


def from_bfloat16(bits: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """float32 values of uint16 ``bits``, exactly; into ``out`` where given."""
    if out is None:
        out = np.empty(bits.shape, np.float32)
    np.left_shift(bits, 16, out=out.view(np.uint32), dtype=np.uint32)
    return out


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """uint16 bits of float32 ``values``, rounded to nearest, ties to even; a NaN stays a (quiet) NaN.

    Source: ggml-impl.h, ggml_compute_fp32_to_bf16; the same as torch's.
    """
    bits = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32)
    out = np.empty(bits.shape, np.uint16)
    for start in range(0, bits.size, _CHUNK):
        part = bits[start : start + _CHUNK]
        rounded = part >> 16
        rounded &= 1
        rounded += 0x7FFF
        rounded += part  # carries into the upper half past the midpoint
        rounded >>= 16
        if (is_nan := np.isnan(part.view(np.float32))).any():
            rounded[is_nan] = (part[is_nan] | 0x00400000) >> 16
        out[start : start + _CHUNK] = rounded
    return out.reshape(values.shape)
