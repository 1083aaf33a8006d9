"""Letting go of a mapped file's pages, so that a load that converts never holds the file and its copy at once."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.lib.array_utils import byte_bounds

from pellucid.base.array import Array


def release(array: Array) -> None:
    """Give the memory behind a view of a mapped file back to the system; read again, it comes from the file again.

    Only for an array that was never written to: what was written is lost. Anything but a view of a map is left alone,
    and so is a page shared with a neighbour.
    """
    owner: object = array.data
    while isinstance(owner, np.ndarray):
        owner = owner.base
    mapped = owner.obj if isinstance(owner, memoryview) else None
    if not isinstance(mapped, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    base = byte_bounds(np.frombuffer(mapped, np.uint8))[0]
    low, high = byte_bounds(array.data)
    first, last = -(-(low - base) // mmap.PAGESIZE), (high - base) // mmap.PAGESIZE
    if last > first:
        mapped.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)
