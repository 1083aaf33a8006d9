"""Values with a scale for the whole, for each row or column, or for each rectangle: w = value · scale, rounded once."""

from __future__ import annotations

import numpy as np

from pellucid.base.array import STORAGE, Array
from pellucid.base.errors import WeightsError
from pellucid.quant import CHUNK, dequantize
from pellucid.quant.bfloat16 import to_bfloat16


def rectangles(shape: tuple[int, ...], scale: tuple[int, ...], block: tuple[int, ...] | None) -> tuple[int, ...]:
    """How many neighbours along each axis share a scale: the whole axis, one, or ``block``'s (the last may be smaller).

    ``block`` None: whatever divides the axis evenly. Raises: WeightsError for a scale that fits no such.
    """
    scale = scale if len(scale) == len(shape) else () if np.prod(scale, dtype=int) == 1 else scale
    if len(scale) == 1 and len(shape) > 1 and scale[0] == shape[-2]:  # a row's, without its second axis
        scale = (*scale, 1)
    scale = scale or (1,) * len(shape)
    sides = []
    for axis, (length, count) in enumerate(zip(shape, scale, strict=False)):
        side = block[axis - len(shape)] if block and len(shape) - axis <= len(block) else None
        if count == 1:
            sides.append(length)
        elif count == length:
            sides.append(1)
        elif side and count == -(-length // side):
            sides.append(side)
        elif not block and length % count == 0:
            sides.append(length // count)
        else:
            break
    if len(sides) != len(shape) or len(scale) != len(shape):
        raise WeightsError(
            "the scales do not fit the weight",
            expected=f"one, one a row, or one for each block of {list(block) if block else 'rows and columns'}",
            received=f"{list(scale)} for {list(shape)}",
        )
    return tuple(sides)


def scaled(values: Array, scale: np.ndarray, sides: tuple[int, ...], dtype: str) -> Array:
    """``values`` (…, N, K) times ``scale`` float32, one for each rectangle of ``sides``; a float ``dtype``."""
    shape = values.shape
    out = np.empty(shape, STORAGE[dtype])
    scale = scale.reshape([-(-length // side) for length, side in zip(shape, sides, strict=True)])
    flat_values, flat_out = values.data.reshape(-1, *shape[-2:]), out.reshape(-1, *shape[-2:])
    for axis in range(len(shape) - 2):
        scale = scale.repeat(sides[axis], axis=axis)
    flat_scale = scale.reshape(-1, *scale.shape[-2:])
    step = max(1, CHUNK // max(1, shape[-1]))
    for part, target, by in zip(flat_values, flat_out, flat_scale, strict=True):
        for start in range(0, shape[-2], step):
            rows = slice(start, start + step)
            numbers = np.arange(start, min(start + step, shape[-2])) // sides[-2]
            wide = by[numbers].repeat(sides[-1], axis=1)[:, : shape[-1]]
            with np.errstate(over="ignore", invalid="ignore"):  # a damaged scale may be NaN: the values then say so
                product = dequantize(Array(values.dtype, part[rows].shape, part[rows])) * wide
                target[rows] = to_bfloat16(product) if dtype == "bfloat16" else product
    return Array(dtype, shape, out)
