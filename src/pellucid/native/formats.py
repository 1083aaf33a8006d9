"""The weight formats that the C kernels multiply with, and how arrays are rearranged into their tiles; ``c/formats.h``
has the table.

A tile is 16 rows. GGML's blocks keep their numbers bit for bit; only their order changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pellucid.base.array import Array
from pellucid.quant import LAYOUTS, convert, dequantize
from pellucid.quant.exact import WIDER, widened
from pellucid.quant.k_quants import planes, six_bit_scales_and_minimums
from pellucid.quant.tables4 import E8M0_HALF, iq4_xs_scales

VECTOR = "f32 row"


@dataclass(frozen=True)
class Format:
    """One format: its name in C, columns that come together, their bytes in a tile, how (N, K) rows become tiles."""

    c_name: str
    columns: int
    bytes: int
    tiles: Callable[[np.ndarray], np.ndarray]

    def tile_bytes(self, columns: int) -> int:
        return columns // self.columns * self.bytes


def _by_tile(rows: np.ndarray) -> np.ndarray:
    """(N, …) → (N / 16, 16, …), N already a multiple of 16."""
    return rows.reshape(len(rows) // 16, 16, *rows.shape[1:])


def _floats(rows: np.ndarray) -> np.ndarray:
    """(N, K) → tiles × [column][row]."""
    return _by_tile(rows).transpose(0, 2, 1)


def _pairs(rows: np.ndarray) -> np.ndarray:
    """(N, K) → tiles × [pair of columns][row][2]."""
    return _by_tile(rows.reshape(len(rows), -1, 2)).transpose(0, 2, 1, 3)


def _fours(stored: np.ndarray) -> np.ndarray:
    """Bytes (T, 16, B, W) → (T, B, 16·W): each four bytes of the 16 rows side by side."""
    tiles, _, blocks, width = stored.shape
    return stored.reshape(tiles, 16, blocks, width // 4, 4).transpose(0, 2, 3, 1, 4).reshape(tiles, blocks, 16 * width)


def _halves(field: np.ndarray) -> np.ndarray:
    """float16 (T, 16, B) → bytes (T, B, 32)."""
    return np.ascontiguousarray(field.transpose(0, 2, 1)).view(np.uint8)


def _two_blocks(scales: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Scales (T, B, 32) and q (T, B, W) → (T, B/2, [2 scales][2 q])."""
    tiles, blocks = scales.shape[:2]
    return np.concatenate([scales.reshape(tiles, blocks // 2, -1), q.reshape(tiles, blocks // 2, -1)], axis=2)


def _q8_0(rows: np.ndarray) -> np.ndarray:
    blocks = _by_tile(rows.view(LAYOUTS["q8_0"]))  # (T, 16, B)
    return _two_blocks(_halves(blocks["d"]), _fours(blocks["qs"].view(np.uint8) ^ 0x80))


def _q4_0(rows: np.ndarray) -> np.ndarray:
    blocks = _by_tile(rows.view(LAYOUTS["q4_0"]))
    return _two_blocks(_halves(blocks["d"]), _fours(blocks["qs"]))


def _q4_1(rows: np.ndarray) -> np.ndarray:
    blocks = _by_tile(rows.view(LAYOUTS["q4_1"]))
    return np.concatenate([_fours(blocks["qs"]), _halves(blocks["d"]), _halves(blocks["m"])], axis=2)


def _rows_last(groups: np.ndarray, tiles: int) -> np.ndarray:
    """Small integers (T·16·B, G) → bytes (T, B, G·16)."""
    return (
        groups.view(np.uint8)
        .reshape(tiles, 16, -1, groups.shape[1])
        .transpose(0, 2, 3, 1)
        .reshape(tiles, -1, 16 * groups.shape[1])
    )


def _k_scales(blocks: np.ndarray) -> list[np.ndarray]:
    scales, minimums = six_bit_scales_and_minimums(blocks["scales"].reshape(-1, 12))
    tiles = len(blocks)
    return [_halves(blocks["d"]), _halves(blocks["dmin"]), _rows_last(scales, tiles), _rows_last(minimums, tiles)]


def _nibbles(qs: np.ndarray) -> np.ndarray:
    """(T, 16, B, 4, 32) bytes → (T, B, 4 · 512)."""
    tiles, _, blocks = qs.shape[:3]
    return _fours(qs.reshape(tiles, 16, blocks * 4, 32)).reshape(tiles, blocks, -1)


def _q4_k(rows: np.ndarray) -> np.ndarray:
    blocks = _by_tile(rows.view(LAYOUTS["q4_k"]))
    return np.concatenate([*_k_scales(blocks), _nibbles(blocks["qs"])], axis=2)


def _q5_k(rows: np.ndarray) -> np.ndarray:
    blocks = _by_tile(rows.view(LAYOUTS["q5_k"]))
    return np.concatenate([*_k_scales(blocks), _fours(blocks["qh"][:, :, :, 0]), _nibbles(blocks["qs"])], axis=2)


def _q6_k(rows: np.ndarray) -> np.ndarray:
    blocks = _by_tile(rows.view(LAYOUTS["q6_k"]))
    tiles, count = blocks.shape[0], blocks.shape[2]
    flat = blocks.reshape(-1)
    low = planes(flat["ql"], 4).reshape(-1, 4, 2, 32)  # weights in order: 4 pairs of blocks of 32
    high = planes(flat["qh"], 2).reshape(-1, 2, 4, 32)  # two planes of four blocks
    nibbles = (low[:, :, 0] | low[:, :, 1] << 4).reshape(tiles, 16, count, 4, 32)
    upper = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    upper = _fours(upper.reshape(tiles, 16, count * 2, 32)).reshape(tiles, count * 2, -1)
    both = np.concatenate([upper, _nibbles(nibbles).reshape(tiles, count * 2, -1)], axis=2).reshape(
        tiles, count, -1
    )  # of four blocks, and four more
    scales = _rows_last(flat["scales"], tiles)
    nothing = np.zeros((tiles, count, 32), np.uint8)
    return np.concatenate([_halves(blocks["d"]), nothing, scales, both], axis=2)


def _iq4_nl(rows: np.ndarray) -> np.ndarray:
    blocks = _by_tile(rows.view(LAYOUTS["iq4_nl"]))
    return _two_blocks(_halves(blocks["d"]), _fours(blocks["qs"]))


def _mxfp4(rows: np.ndarray) -> np.ndarray:
    blocks = _by_tile(rows.view(LAYOUTS["mxfp4"]))
    powers = (E8M0_HALF.view(np.uint32) >> 16).astype(np.uint16)  # as bf16, which holds each of them
    return _two_blocks(_halves(powers[blocks["e"]]), _fours(blocks["qs"]))


def _iq4_xs(rows: np.ndarray) -> np.ndarray:
    blocks = _by_tile(rows.view(LAYOUTS["iq4_xs"]))
    tiles, _, count = blocks.shape
    nibbles = _fours(blocks["qs"].reshape(tiles, 16, count * 8, 16)).reshape(tiles, count, -1)
    return np.concatenate([_halves(blocks["d"]), _rows_last(iq4_xs_scales(blocks.reshape(-1)), tiles), nibbles], axis=2)


FORMATS = {
    "float32": Format("F32", 32, 2048, _floats),
    "float16": Format("F16", 32, 1024, _floats),
    "bfloat16": Format("BF16", 32, 1024, _pairs),
    "q8_0": Format("Q8_0", 64, 1088, _q8_0),
    "q4_0": Format("Q4_0", 64, 576, _q4_0),
    "q4_1": Format("Q4_1", 32, 320, _q4_1),
    "q4_k": Format("Q4_K", 256, 2368, _q4_k),
    "q5_k": Format("Q5_K", 256, 2880, _q5_k),
    "q6_k": Format("Q6_K", 256, 3392, _q6_k),
    "iq4_nl": Format("IQ4_NL", 64, 576, _iq4_nl),
    "iq4_xs": Format("IQ4_XS", 256, 2208, _iq4_xs),
    "mxfp4": Format("MXFP4", 64, 576, _mxfp4),
}


def own_format(array: Array) -> str:
    """The format an array is multiplied in: its own; for those that have no kernel, one that holds the same numbers."""
    return array.dtype if array.dtype in FORMATS else WIDER.get(array.dtype, "float32")


def to_tiles(array: Array, dtype: str, rows: int, columns: int) -> np.ndarray:
    """An (N, K) array as tiles of ``rows`` × ``columns`` (N and K padded with zeros), ready to be written."""
    form = FORMATS[dtype]
    if dtype == array.dtype:
        data = array.data
    elif WIDER.get(array.dtype) == dtype:
        data = widened(array).data
    elif dtype in ("float32", "float16", "bfloat16"):
        data = convert(array, dtype).data
    else:
        from pellucid.quant import quantize

        data = quantize(np.ascontiguousarray(dequantize(array)), dtype).data
    width = (
        columns
        if not array.is_blocks and dtype in ("float32", "float16", "bfloat16")
        else _stored_width(dtype, columns)
    )
    if data.shape != (rows, width):
        whole = np.zeros((rows, width), data.dtype)
        whole[: data.shape[0], : data.shape[1]] = data
        data = whole
    return np.ascontiguousarray(form.tiles(np.ascontiguousarray(data)))


def _stored_width(dtype: str, columns: int) -> int:
    """Stored elements (bytes of blocks, or numbers) of a row of ``columns`` weights."""
    from pellucid.base.array import BLOCKS

    return columns // BLOCKS[dtype][0] * BLOCKS[dtype][1] if dtype in BLOCKS else columns
