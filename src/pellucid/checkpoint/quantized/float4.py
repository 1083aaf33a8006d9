"""Weights of four-bit floats (E2M1), two in a byte, the first in its low half: MXFP4 and NVFP4 as folders hold them.

    MXFP4   w = 2^(e − 127) · f[q]          e a byte for 32 weights
    NVFP4   w = s · t · f[q]                s a float of 8 bits for 16 weights, t one number for all (or 1 / t)

MXFP4 becomes GGML's blocks, which hold the same codes in another order.
Source: Open Compute Project, *MX v1.0* §5.3; transformers integrations/mxfp4.py; compressed-tensors nvfp4/base.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pellucid.base.array import STORAGE, Array
from pellucid.base.errors import WeightsError
from pellucid.checkpoint.quantized.deferred import Deferred
from pellucid.quant import CHUNK, LAYOUTS, dequantize
from pellucid.quant.bfloat16 import to_bfloat16
from pellucid.quant.lookup import look_up
from pellucid.quant.tables4 import E2M1_DOUBLED, halves

PAIRS = np.stack(halves(E2M1_DOUBLED / 2), axis=-1)  # (256, 2): what a byte stands for


def mxfp4_rows(name: str, packed: Array, scale: Array) -> Deferred:
    """``packed`` (…, K/2) or (…, K/32, 16) and ``scale`` (…, K/32) bytes → (…, K) in blocks."""
    rows, groups = scale.shape[:-1], scale.shape[-1]
    if packed.shape not in ((*rows, groups, 16), (*rows, 16 * groups)):
        raise WeightsError(
            f"{name}: blocks and scales do not fit each other",
            expected=f"{[*rows, groups, 16]}",
            received=list(packed.shape),
        )

    def make() -> Array:
        codes = packed.data.reshape(*scale.shape, 16).view(np.uint8)
        exponents = scale.data.view(np.uint8)
        if (exponents == 255).any():
            raise WeightsError(f"{name}: a scale is NaN", remedy="the file is damaged; download it again")
        blocks = np.empty(scale.shape, LAYOUTS["mxfp4"])
        blocks["e"] = exponents
        low, high = codes & 0x0F, codes >> 4  # weights 0, 2, … and 1, 3, …
        blocks["qs"][..., 0::2] = low[..., :8] | low[..., 8:] << 4
        blocks["qs"][..., 1::2] = high[..., :8] | high[..., 8:] << 4
        return Array("mxfp4", (*rows, 32 * groups), blocks.view(np.uint8).reshape(*rows, 17 * groups))

    return Deferred((*rows, 32 * groups), (packed, scale), "MXFP4", lambda: ("mxfp4", make))


def nvfp4_rows(
    name: str, packed: Array, scale: Array, whole: Array, with_whole: Callable[..., np.ndarray], dtype: str
) -> Deferred:
    """``packed`` (N, K/2) uint8, ``scale`` (N, K/16); ``with_whole(scale, t)`` is what a group is multiplied with."""
    outputs, groups = scale.shape
    if packed.shape != (outputs, 8 * groups) or whole.shape not in ((), (1,)):
        raise WeightsError(
            f"{name}: codes and scales do not fit each other",
            expected=[outputs, 8 * groups],
            received=list(packed.shape),
        )

    def make() -> Array:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            by = with_whole(dequantize(scale), dequantize(whole).reshape(())[()]).astype(np.float32)
        out = np.empty((outputs, 16 * groups), STORAGE[dtype])
        step = max(1, CHUNK // max(1, out.shape[1]))
        for start in range(0, outputs, step):
            rows = slice(start, start + step)
            codes = packed.data[rows]
            values = look_up(PAIRS, codes).reshape(len(codes), groups, 16)
            with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale may be NaN: the values then say so
                values *= by[rows][..., None]
            flat = values.reshape(len(codes), -1)
            out[rows] = to_bfloat16(flat) if dtype == "bfloat16" else flat
        return Array(dtype, out.shape, out)

    return Deferred((outputs, 16 * groups), (packed, scale, whole), "NVFP4", lambda: (dtype, make))
