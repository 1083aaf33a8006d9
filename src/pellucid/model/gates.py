"""Gates: functions whose result multiplies something else, number by number."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.model.context import Context
from pellucid.model.invariant import rows_invariant_sigmoid, rows_invariant_silu

GATES = {"sigmoid": torch.sigmoid, "silu": F.silu}
ROWS_INVARIANT = {"sigmoid": rows_invariant_sigmoid, "silu": rows_invariant_silu}


def gate(kind: str, x: Tensor, ctx: Context) -> Tensor:
    """How far each number opens its gate: ``sigmoid`` or ``silu`` of it."""
    return (ROWS_INVARIANT if ctx.rows_invariant else GATES)[kind](x)
