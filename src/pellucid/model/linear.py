"""Linear maps, x Wᵀ + b, in the kinds that a decoder may hold."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.model.context import Context
from pellucid.model.invariant import rows_invariant_linear


class Linear(nn.Linear):
    """x Wᵀ + b with weights as they are."""

    def forward(self, x: Float[Tensor, "*rows K"], ctx: Context) -> Float[Tensor, "*rows N"]:  # type: ignore[override]
        return (rows_invariant_linear if ctx.rows_invariant else F.linear)(x, self.weight, self.bias)
