"""Tiles: rectangles of a tensor as the page asks for them, and thumbnails that miss no extreme."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.explain.show.answers import Params, Tile

BIGGEST_TILE = 4_000_000  # values


def tile_of(name: str, tensor: Tensor, params: Params) -> Tile:
    """Two axes of a step or a weight: ``at`` fixes the leading ones, ``rows`` and ``cols`` cut, ``most`` bounds a
    thumbnail's sides.

    Raises: RequestError for a range that is not there.
    """
    at, tensor = indices(params.get("at", "")), tensor[None] if tensor.ndim == 1 else tensor
    if len(at) != tensor.ndim - 2 or any(not 0 <= i < size for i, size in zip(at, tensor.shape, strict=False)):
        raise RequestError(
            "there is no such slice",
            where=name,
            expected=f"{tensor.ndim - 2} indices below {tuple(tensor.shape[:-2])}",
            received=at,
        )
    part = tensor[tuple(at)]
    part = part[_range(params.get("rows"), part.shape[0], name), _range(params.get("cols"), part.shape[1], name)]
    most = int(params.get("most") or 0)
    row_step, col_step = (math.ceil(side / most) if most > 0 else 1 for side in part.shape)
    if part.numel() / (row_step * col_step) > BIGGEST_TILE:
        raise RequestError(
            "this tile is too large",
            where=name,
            expected=f"at most {BIGGEST_TILE} values",
            received=part.numel(),
            remedy="ask for most=",
        )
    if row_step * col_step > 1:
        part = largest_in_blocks(part.float(), row_step, col_step)
    return Tile(part.float().cpu().contiguous().numpy(), row_step, col_step)


def largest_in_blocks(x: Tensor, row_step: int, col_step: int) -> Tensor:
    """(R, C) → (⌈R/row_step⌉, ⌈C/col_step⌉): of each block, the value of largest size, with its sign."""

    def most(values: Tensor) -> Tensor:
        return F.max_pool2d(values[None, None], (row_step, col_step), ceil_mode=True)[0, 0]

    finite = x.nan_to_num(neginf=0.0)
    high, low = most(finite), most(-finite)
    return torch.where(high >= low, high, -low)


def indices(text: str) -> list[int]:
    """``0,2,5``"""
    try:
        return [int(i) for i in text.split(",")] if text else []
    except ValueError:
        raise RequestError("an index is whole numbers and commas", received=text) from None


def _range(text: str | None, size: int, name: str) -> slice:
    if not text:
        return slice(0, size)
    start, _, stop = text.partition(":")
    if not (start.isdigit() and stop.isdigit() and int(start) < int(stop) <= size):
        raise RequestError("there is no such range", where=name, expected=f"a:b within 0:{size}", received=text)
    return slice(int(start), int(stop))
