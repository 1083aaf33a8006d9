"""A causal convolution of each channel by itself, over a whole text or on from where it stopped."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Convolution(nn.Module):
    """y_t = Σ_j w_j ⊙ u_{t − W + j} + b, j from 1 to W; before the first token u is 0.

    In float32 at least, number by number and always in one order: a place's result depends on nothing but what it is
    made of, so a text read at once and token by token gives the same bits.
    """

    def __init__(self, channels: int, width: int, bias: bool) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.empty(channels, width))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None

    def forward(
        self, u: Float[Tensor, "B T C"], before: Float[Tensor, "B W1 C"] | None = None
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B W1 C"]]:
        """``before``: u at the W − 1 places before these. Returns y, and u at the last W − 1 places of all."""
        kept, count = self.width - 1, u.shape[1]
        u = F.pad(u, (0, 0, kept, 0)) if before is None else torch.cat((before.to(u.dtype), u), 1)
        wide = torch.promote_types(u.dtype, torch.float32)
        weight, shifted = self.weight.to(wide), u.to(wide)
        y = sum(shifted[:, j : j + count] * weight[:, j] for j in range(self.width))
        assert isinstance(y, Tensor)
        y = y if self.bias is None else y + self.bias.to(wide)
        return y.to(u.dtype), u[:, count:].clone()

    def initialize_weight(self, leaf: str, weight: Tensor, generator: torch.Generator | None) -> None:
        """U(−1/√W, 1/√W), torch's own for a convolution; b = 0."""
        if leaf == "bias":
            weight.zero_()
        else:
            weight.uniform_(-(self.width**-0.5), self.width**-0.5, generator=generator)
