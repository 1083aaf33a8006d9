"""``operands``: any cell of any matrix, with its equation's real operands.

Every operand names the cell that it came from, so one can walk back, cell by cell, from the predicted token to the
letters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pellucid.base.errors import RequestError
from pellucid.explain.recompute import Cells
from pellucid.explain.record import Record
from pellucid.operations.cell import Cell, Operands, Term


@torch.no_grad()
def operands(trace: Record, name: str, index: Sequence[int], *, max_terms: int = 12) -> Operands:
    """The operands of ``trace[name][index]``. An index counts along the recorded tensor's axes, from the end if
    negative.

    Raises: RequestError for an index outside the tensor; NotRecordedError where an input of the step was left out of
    the trace.
    """
    tap, tensor = trace.tap(name), trace[name]
    if len(index) != tensor.ndim or any(not -size <= i < size for i, size in zip(index, tensor.shape, strict=True)):
        raise RequestError(
            "there is no such cell", where=name, expected=f"an index below {tuple(tensor.shape)}", received=tuple(index)
        )
    at = tuple(i % size for i, size in zip(index, tensor.shape, strict=True))
    axis = "position" if "position" in tap.axes else "key"
    column = at[tap.axes.index(axis)]
    place = trace.positions[column] if axis == "position" else column
    return tap.cell(Cells(trace), at, tensor[at].item(), place, max_terms)


__all__ = ["Cell", "Operands", "Term", "operands"]
