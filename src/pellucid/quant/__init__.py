"""Weight formats: any stored dtype to float32 and back, in numpy, a few hundred kilobytes of temporaries at a time.

``bfloat16`` is the upper half of a float32. GGML's block formats give every 32 (or 256) consecutive weights of a row a
scale of their own: ``blocks32``, ``k_quants``, ``iq``, ``tables4`` and ``low_bits`` hold their layouts, ``k_encoders``
and ``search`` how the scales are chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pellucid.base.array import BLOCKS, STORAGE, Array, row_bytes
from pellucid.base.errors import CheckpointError
from pellucid.quant import blocks32, iq, k_encoders, k_quants, low_bits, tables4
from pellucid.quant.bfloat16 import from_bfloat16, to_bfloat16
from pellucid.quant.float8 import TABLES
from pellucid.quant.lookup import look_up

__all__ = ["convert", "dequantize", "dequantize_into", "from_bfloat16", "is_finite", "quantize", "to_bfloat16"]

_ROOMS = (blocks32, k_quants, iq, tables4, low_bits)
LAYOUTS: dict[str, np.dtype] = {name: layout for room in _ROOMS for name, layout in room.LAYOUTS.items()}
DECODERS: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {
    name: decode for room in _ROOMS for name, decode in room.DECODERS.items()
}
ENCODERS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray | None], None]] = (
    blocks32.ENCODERS | k_encoders.ENCODERS
)
FLOATS = ("float32", "float16", "bfloat16")

CHUNK = 2**18  # elements worked on at a time: a megabyte of float32, about what a core's cache holds
LARGEST = 2.0**29  # beyond what any block format holds, 65504 · 128 · 32; its cube times q is within float32
SEARCHED = 2**16  # elements whose scales are searched at a time: some ten temporaries of them stay in the cache


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
    if array.dtype in TABLES or (layout and not scales):
        parts = (array.with_data(array.data[rows]) for rows in _row_chunks(array.data.shape))
        return all(bool(np.isfinite(dequantize(part)).all()) for part in parts)
    if layout:
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
        elif array.dtype in TABLES:
            for rows in _row_chunks(array.shape):
                out[rows] = look_up(TABLES[array.dtype], array.data[rows])
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


def quantize(values: np.ndarray, dtype: str, importance: np.ndarray | None = None, threads: int = 1) -> Array:
    """float32 values in blocks of ``dtype``, bit for bit as ggml's reference rounds them.

    ``importance``: how much an error counts in each column, (columns,), or of each of the first axis's matrices,
    (matrices, columns); as llama.cpp's importance matrix. Q8_0 takes no notice of it.

    Raises: CheckpointError for another format, rows that are not whole blocks, values no block can hold (inf, NaN, a
    scale beyond float16), or importance of another shape.
    """
    if dtype not in ENCODERS:
        raise CheckpointError(f"there is no encoder for {dtype}", expected=" or ".join(ENCODERS))
    if values.ndim == 0:
        raise CheckpointError(
            "a single number cannot be quantized", expected=f"rows of {BLOCKS[dtype][0]} values or a multiple"
        )
    data = np.empty((*values.shape[:-1], row_bytes(dtype, values.shape[-1])), np.uint8)
    columns = values.shape[-1]
    rows = np.ascontiguousarray(values, np.float32).reshape(-1, columns)
    blocks = data.reshape(len(rows), -1).view(LAYOUTS[dtype])  # (rows, blocks of a row)
    if importance is not None:
        if importance.shape not in ((columns,), (*values.shape[:1], columns)[-2:]) or values.ndim < importance.ndim:
            raise CheckpointError(
                "importance of another shape", expected=f"{columns} numbers a matrix", received=list(importance.shape)
            )
        importance = np.ascontiguousarray(importance, np.float32).reshape(-1, columns)
        importance = importance if dtype != "q8_0" else None
    step = max(1, (SEARCHED if importance is not None or dtype in k_encoders.ENCODERS else CHUNK) // max(1, columns))
    each = len(rows) // len(importance) if importance is not None else len(rows)  # rows of a matrix
    parts = [
        (start, min(start + step, first + each))
        for first in range(0, len(rows), max(1, each))
        for start in range(first, first + each, step)
    ]

    def encode(part: tuple[int, int]) -> None:
        start, stop = part
        column = None if importance is None else importance[start // each]
        _encode(dtype, rows[start:stop], blocks[start:stop], column)

    if threads > 1 and len(parts) > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(encode, parts))
    else:
        for part in parts:
            encode(part)
    return Array(dtype, values.shape, data)


def _encode(dtype: str, rows: np.ndarray, blocks: np.ndarray, importance: np.ndarray | None) -> None:
    """Rows (R, C) into blocks (R, B); ``importance`` (C,)."""
    elements = BLOCKS[dtype][0]
    weights, flat = None, blocks.reshape(-1)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore", under="ignore"):
        if importance is not None:
            weights = np.broadcast_to(importance, rows.shape)
            if elements == 32:  # of the whole row, where a super-block has its own
                spread = np.add.reduce(np.square(np.ascontiguousarray(rows.T)), axis=0) / np.float32(rows.shape[1])
                weights = weights * np.sqrt(spread[:, None] + rows * rows)
            weights = np.ascontiguousarray(weights).reshape(-1, elements)
        ENCODERS[dtype](rows.reshape(-1, elements), flat, weights)
    scales = [name for name in ("d", "m", "dmin") if name in (flat.dtype.names or ())]
    within = bool(rows.size == 0 or (rows.max() < LARGEST and rows.min() > -LARGEST))  # false for NaN
    if not within or not all(np.isfinite(flat[name]).all() for name in scales):
        raise CheckpointError(
            f"values too large for {dtype}, or not finite", expected="a scale within float16's range, 65504"
        )


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
