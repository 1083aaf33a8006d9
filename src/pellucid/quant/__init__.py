"""Weight formats: any stored dtype to float32 and back, in numpy, a few hundred kilobytes of temporaries at a time.

``bfloat16`` is the upper half of a float32. GGML's block formats give every 32 (or 256) consecutive weights of a row a
scale of their own: ``blocks32``, ``k_quants``, ``iq``, ``tables4`` and ``low_bits`` hold their layouts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pellucid.base.array import BLOCKS, STORAGE, Array, row_bytes
from pellucid.base.errors import CheckpointError
from pellucid.quant import blocks32, iq, k_quants, low_bits, tables4
from pellucid.quant.bfloat16 import from_bfloat16, to_bfloat16

__all__ = ["convert", "dequantize", "dequantize_into", "from_bfloat16", "is_finite", "quantize", "to_bfloat16"]

_ROOMS = (blocks32, k_quants, iq, tables4, low_bits)
LAYOUTS: dict[str, np.dtype] = {name: layout for room in _ROOMS for name, layout in room.LAYOUTS.items()}
DECODERS: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {
    name: decode for room in _ROOMS for name, decode in room.DECODERS.items()
}
ENCODERS: dict[str, Callable[[np.ndarray, np.ndarray], None]] = blocks32.ENCODERS
FLOATS = ("float32", "float16", "bfloat16")

CHUNK = 2**18  # elements worked on at a time: a megabyte of float32, about what a core's cache holds


def dequantize(array: Array) -> np.ndarray:
    """The array's values, float32, in its shape. A float32 array's own data, not a copy."""
    if array.dtype == "float32":
        return array.data
    out = np.empty(array.shape, np.float32)
    dequantize_into(array, out)
    return out


def is_finite(array: Array) -> bool:
    """Whether all of the array's values are finite numbers: of blocks with float16 scales, those tell."""
    layout = LAYOUTS.get(array.dtype)
    scales = [name for name in layout.names or () if layout[name] == np.float16] if layout else []
    if array.is_blocks and not scales:
        parts = (array.with_data(array.data[rows]) for rows in _row_chunks(array.data.shape))
        return all(bool(np.isfinite(dequantize(part)).all()) for part in parts)
    if array.is_blocks:
        return all(
            bool(np.isfinite(np.ascontiguousarray(part).reshape(-1).view(layout)[name]).all())
            for part in (array.data[rows] for rows in _row_chunks(array.data.shape))
            for name in scales
        )
    if array.dtype == "bfloat16":
        return not any(bool(((array.data[rows] & 0x7F80) == 0x7F80).any()) for rows in _row_chunks(array.shape))
    return all(bool(np.isfinite(array.data[rows]).all()) for rows in _row_chunks(array.shape))


def dequantize_into(array: Array, out: np.ndarray) -> None:
    """Write the array's values into ``out``: float32, of the array's shape, rows contiguous.

    Raises: CheckpointError where ``out`` is of another shape or dtype.
    """
    if out.shape != array.shape or out.dtype != np.float32:
        raise CheckpointError(
            f"cannot write {array} there",
            expected=f"float32 {list(array.shape)}",
            received=f"{out.dtype} {list(out.shape)}",
        )
    with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale may be inf or NaN: the values then say so
        if array.is_blocks:
            _decode(array.dtype, array.data, out)
        elif array.dtype == "bfloat16":
            from_bfloat16(array.data, out)
        else:
            np.copyto(out, array.data, casting="unsafe")


def _decode(dtype: str, data: np.ndarray, out: np.ndarray) -> None:
    if data.ndim > 1 and not (data.flags.c_contiguous and out.flags.c_contiguous):
        for part, target in zip(data, out, strict=True):
            _decode(dtype, part, target)
        return
    blocks = np.ascontiguousarray(data).reshape(-1).view(LAYOUTS[dtype])
    values = out.reshape(len(blocks), BLOCKS[dtype][0])
    step = CHUNK // values.shape[1]
    for start in range(0, len(blocks), step):
        DECODERS[dtype](blocks[start : start + step], values[start : start + step])


def quantize(values: np.ndarray, dtype: str) -> Array:
    """float32 values as ``q8_0``, ``q4_0`` or ``q4_1``, rounded bit for bit as ggml's reference does.

    Raises: CheckpointError for another format, rows that are not whole blocks, or values no block can hold (inf, NaN,
    a scale beyond float16).
    """
    if dtype not in ENCODERS:
        raise CheckpointError(f"there is no encoder for {dtype}", expected=" or ".join(ENCODERS))
    if values.ndim == 0:
        raise CheckpointError(
            "a single number cannot be quantized", expected=f"rows of {BLOCKS[dtype][0]} values or a multiple"
        )
    data = np.empty((*values.shape[:-1], row_bytes(dtype, values.shape[-1])), np.uint8)
    elements = BLOCKS[dtype][0]
    blocks = data.reshape(-1).view(LAYOUTS[dtype])
    wide = np.ascontiguousarray(values, np.float32).reshape(len(blocks), elements)
    step = CHUNK // elements
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        for start in range(0, len(blocks), step):
            part = blocks[start : start + step]
            ENCODERS[dtype](wide[start : start + step], part)
            if not all(np.isfinite(part[name]).all() for name in ("d", "m") if name in (part.dtype.names or ())):
                raise CheckpointError(
                    f"values too large for {dtype}, or not finite", expected="a scale within float16's range, 65504"
                )
    return Array(dtype, values.shape, data)


def convert(array: Array, dtype: str) -> Array:
    """The array in another float dtype, or itself where it is of that dtype already.

    Rounds to nearest, ties to even; what exceeds float16 becomes infinite.
    """
    if array.dtype == dtype:
        return array
    if dtype not in FLOATS:
        raise CheckpointError(f"weights cannot be converted to {dtype}", expected=" or ".join(FLOATS))
    if dtype == "float32":
        return Array.from_numpy(dequantize(array))
    out = np.empty(array.shape, STORAGE[dtype])
    with np.errstate(over="ignore"):
        for rows in _row_chunks(array.shape):
            values = dequantize(array.with_data(array.data[rows]))
            out[rows] = to_bfloat16(values) if dtype == "bfloat16" else values
    return Array(dtype, array.shape, out)


def _row_chunks(shape: tuple[int, ...]) -> list[slice] | list[tuple[()]]:
    if len(shape) < 2:  # one row: a bias, a norm
        return [()]
    step = max(1, CHUNK // max(1, int(np.prod(shape[1:]))))
    return [slice(start, start + step) for start in range(0, shape[0], step)]
