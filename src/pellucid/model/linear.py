"""Linear maps, x Wᵀ + b, and the table of embeddings.

Neither fills itself on construction: weights come from a checkpoint or from ``Decoder.initialize``. (torch's own start values,
on the meta device, import its whole compiler: 2.4 seconds.)
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.model.context import Context
from pellucid.model.invariant import rows_invariant_linear


class Linear(nn.Linear):
    """x Wᵀ + b with weights as they are."""

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Float[Tensor, "*rows K"], ctx: Context) -> Float[Tensor, "*rows N"]:  # type: ignore[override]
        return (rows_invariant_linear if ctx.rows_invariant else F.linear)(x, self.weight, self.bias)


class Embedding(nn.Embedding):
    """A row of the table for each id."""

    def reset_parameters(self) -> None:
        pass
