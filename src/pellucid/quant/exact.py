"""Blocks as wider blocks that hold the same numbers, for whoever multiplies with the wider ones alone.

    Q5_0                       Q8_0       the same d; five bits in eight
    TQ1_0, TQ2_0, Q1_0, Q2_0   Q4_0       the same d; −1, 0, 1, 2 as 7, 8, 9, 10
    Q3_K, IQ3_S                Q6_K       the same d; a group's whole number in a byte, a weight's in six bits
    NVFP4                      bfloat16   two bits times at most four are six of its eight
    floats of 8 bits           bfloat16   four bits at most, and a smaller range

The others have no such relative: their scales' numbers have more bits than a wider block has room for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pellucid.base.array import BLOCKS, Array, row_bytes
from pellucid.quant import LAYOUTS, convert, dequantize
from pellucid.quant.iq import iq3_s_scales
from pellucid.quant.k_quants import q3_k_scales

WIDER = {
    "q5_0": "q8_0",
    **dict.fromkeys(("tq1_0", "tq2_0", "q1_0", "q2_0"), "q4_0"),
    **dict.fromkeys(("q3_k", "iq3_s"), "q6_k"),
    **dict.fromkeys(("nvfp4", "float8_e4m3fn", "float8_e5m2"), "bfloat16"),
}


def widened(array: Array) -> Array:
    """The same numbers in the format that ``WIDER`` names for the array's own."""
    dtype = WIDER[array.dtype]
    if dtype not in BLOCKS:
        return convert(array, dtype)
    narrow = np.ascontiguousarray(array.data).reshape(-1).view(LAYOUTS[array.dtype])
    data = np.empty((*array.shape[:-1], row_bytes(dtype, array.shape[-1])), np.uint8)
    wide = data.reshape(-1).view(LAYOUTS[dtype])
    ones = narrow.copy()
    ones["d"] = 1
    elements = BLOCKS[dtype][0]
    whole = dequantize(Array(array.dtype, (wide.size * elements,), ones.view(np.uint8))).reshape(-1, elements)
    wide["d"] = narrow["d"].repeat(len(wide) // len(narrow))
    _FILL[dtype](whole, narrow, wide)
    return Array(dtype, array.shape, data)


def _fill_q8_0(whole: np.ndarray, narrow: np.ndarray, wide: np.ndarray) -> None:
    wide["qs"] = whole


def _fill_q4_0(whole: np.ndarray, narrow: np.ndarray, wide: np.ndarray) -> None:
    q = (whole + 8).astype(np.uint8)
    wide["qs"] = q[:, :16] | q[:, 16:] << 4


def _fill_q6_k(whole: np.ndarray, narrow: np.ndarray, wide: np.ndarray) -> None:
    """``whole`` (N, 256) is scale times weight; each of 16 groups has one scale."""
    scales = q3_k_scales(narrow["scales"]) if "hmask" in (narrow.dtype.names or ()) else iq3_s_scales(narrow["scales"])
    scales = scales.repeat(16 // scales.shape[1], axis=1)
    divisor = np.where(scales == 0, 1, scales)[..., None]
    q = (whole.reshape(-1, 16, 16) / divisor + 32).astype(np.uint8).reshape(-1, 2, 4, 32)  # two halves of four runs
    wide["ql"] = (q[:, :, :2] & 0x0F | q[:, :, 2:] << 4).reshape(-1, 2, 64)
    upper = q >> 4
    wide["qh"] = upper[:, :, 0] | upper[:, :, 1] << 2 | upper[:, :, 2] << 4 | upper[:, :, 3] << 6
    wide["scales"] = scales


_FILL: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], None]] = {
    "q8_0": _fill_q8_0,
    "q4_0": _fill_q4_0,
    "q6_k": _fill_q6_k,
}
