"""A matrix of small integers with a scale by groups of a row's columns, as what can be computed with.

    w = scale · (code − zero)        or        w = scale · code + offset

Where groups are whole blocks of 32 and their scales are exact in float16, GGML's blocks hold the very same numbers:
Q4_0 where code − zero is within −8 … 7, Q8_0 within −128 … 127, Q4_1 for an offset. Else floats, rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pellucid.base.array import STORAGE, Array, row_bytes
from pellucid.quant import CHUNK, LAYOUTS
from pellucid.quant.bfloat16 import to_bfloat16

BLOCK = 32


@dataclass(frozen=True)
class Affine:
    """``codes`` makes those of some rows, (n, K); ``lowest`` and ``highest`` bound them. ``scale``, ``zero`` and
    ``offset`` are (N, G) float32, ``group_of`` says which group a column is of; None: G groups of one length, in order.
    """

    shape: tuple[int, int]
    codes: Callable[[slice], np.ndarray]
    lowest: int
    highest: int
    scale: np.ndarray
    zero: np.ndarray | None = None
    offset: np.ndarray | None = None
    group_of: np.ndarray | None = None
    rows_together: int = 1  # the codes of so many rows lie in one word

    @cached_property
    def blocks(self) -> str | None:
        """The block format that holds these numbers exactly; None where none does."""
        groups = self.scale.shape[1]
        if self.group_of is not None or self.shape[1] % (groups * BLOCK) or not _is_half(self.scale):
            return None
        if self.offset is not None:
            is_4_1 = self.zero is None and self.lowest >= 0 and self.highest <= 15 and _is_half(self.offset)
            return "q4_1" if is_4_1 else None
        least = most = 0.0
        if self.zero is not None:
            if (self.zero != np.rint(self.zero)).any():
                return None
            least, most = float(self.zero.min()), float(self.zero.max())
        low, high = self.lowest - most, self.highest - least
        return "q4_0" if low >= -8 and high <= 7 else "q8_0" if low >= -128 and high <= 127 else None

    def array(self, dtype: str) -> Array:
        """In blocks where some hold the same numbers, else in ``dtype``, a float."""
        return self._in_blocks(self.blocks) if self.blocks else self._in_floats(dtype)

    def _parts(self):
        """Rows, a few hundred kilobytes at a time."""
        together = self.rows_together
        step = max(1, CHUNK // self.shape[1] // together) * together
        return (slice(start, min(start + step, self.shape[0])) for start in range(0, self.shape[0], step))

    def _in_blocks(self, dtype: str) -> Array:
        data = np.empty((self.shape[0], row_bytes(dtype, self.shape[1])), np.uint8)
        blocks = data.view(LAYOUTS[dtype])  # (N, K / 32)
        times = blocks.shape[1] // self.scale.shape[1]
        blocks["d"] = self.scale.repeat(times, axis=1)
        if self.offset is not None:
            blocks["m"] = self.offset.repeat(times, axis=1)
        for rows in self._parts():
            q = self.codes(rows).view(np.uint8).reshape(-1, self.scale.shape[1], self.shape[1] // self.scale.shape[1])
            less = np.zeros((1, 1), np.int16) if self.zero is None else self.zero[rows].astype(np.int16)
            less = less - 8 if dtype == "q4_0" else less
            if less.any():  # modulo 256, in which the result fits
                q = q - less.astype(np.uint8)[..., None]
            q = q.reshape(*blocks[rows].shape, BLOCK)
            if dtype == "q8_0":
                blocks["qs"][rows] = q.view(np.int8)
            else:
                blocks["qs"][rows] = q[..., :16] | q[..., 16:] << 4
        return Array(dtype, self.shape, data)

    def _in_floats(self, dtype: str) -> Array:
        out = np.empty(self.shape, STORAGE[dtype])
        regular = self.group_of is None

        def spread(part: np.ndarray, rows: slice) -> np.ndarray:
            return part[rows][..., None] if self.group_of is None else np.take(part[rows], self.group_of, axis=1)

        for rows in self._parts():
            values = self.codes(rows).astype(np.float32)
            if regular:
                values = values.reshape(len(values), self.scale.shape[1], -1)  # (n, G, K / G)
            with np.errstate(over="ignore", invalid="ignore"):  # a damaged scale may be NaN: the values then say so
                if self.zero is not None:
                    values -= spread(self.zero, rows)
                values *= spread(self.scale, rows)
                if self.offset is not None:
                    values += spread(self.offset, rows)
                values = values.reshape(len(values), -1)
                out[rows] = to_bfloat16(values) if dtype == "bfloat16" else values
        return Array(dtype, self.shape, out)


def _is_half(values: np.ndarray) -> bool:
    """Whether float16 holds all of these float32 exactly, and all are finite."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return bool(np.isfinite(half).all() and (half.astype(np.float32) == values).all())
