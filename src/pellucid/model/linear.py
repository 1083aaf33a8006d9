"""Linear maps, x Wᵀ + b, and the table of embeddings; a linear map with a low-rank update (LoRA).

Neither fills itself on construction: weights come from a checkpoint or from ``Decoder.initialize``. (torch's own start
values, on the meta device, import its whole compiler: 2.4 seconds.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.model.context import Context
from pellucid.model.invariant import rows_invariant_linear

if TYPE_CHECKING:
    from pellucid.model.quantized import QuantizedLinear


class Linear(nn.Linear):
    """x Wᵀ + b with weights as they are."""

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Float[Tensor, "*rows K"], ctx: Context) -> Float[Tensor, "*rows N"]:  # type: ignore[override]
        return (rows_invariant_linear if ctx.rows_invariant else F.linear)(x, self.weight, self.bias)


class LoraLinear(nn.Module):
    """x Wᵀ + b + scale · (dropout(x) Aᵀ) Bᵀ: W and b as they are, A (r, K) and B (N, r) learned. Source: Hu et al. 2021
    §4.1.

    ``weight`` is what the map amounts to, W + scale · B A, so that whoever looks at weights, or saves them, sees the
    model that runs.
    """

    def __init__(
        self, base: Linear | QuantizedLinear, a: nn.Parameter, b: nn.Parameter, scale: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.base, self.lora_a, self.lora_b = base, a, b
        self.scale, self.dropout = scale, dropout
        self.enabled = True  # see train.lora.without_adapter

    def forward(self, x: Float[Tensor, "*rows K"], ctx: Context) -> Float[Tensor, "*rows N"]:
        y = self.base(x, ctx)
        if not self.enabled:
            return y
        linear = rows_invariant_linear if ctx.rows_invariant else F.linear
        learning = self.training and torch.is_grad_enabled()  # a look at a model in mid-training sees no dropout
        narrow = linear(F.dropout(x, self.dropout, learning).to(self.lora_a.dtype), self.lora_a)  # (*rows, r)
        return y + (self.scale * linear(narrow, self.lora_b)).to(y.dtype)

    @property
    def weight(self) -> nn.Parameter:
        """W + scale · B A, summed up in float32, in W's dtype; a copy."""
        with torch.no_grad():
            weight = self.base.weight.detach()
            if self.enabled:
                weight = (weight.float() + self.scale * (self.lora_b.float() @ self.lora_a.float())).to(weight.dtype)
            return nn.Parameter(weight, requires_grad=False)

    @property
    def bias(self) -> nn.Parameter | None:
        return self.base.bias


def for_products(x: Tensor) -> Tensor:
    """Under autocast, x as the products that read it would each cast it: once for all of them. Else x itself."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def scaled(x: Tensor, scale: float) -> Tensor:
    return x if scale == 1 else x * scale


class Embedding(nn.Embedding):
    """A row of the table for each id."""

    def reset_parameters(self) -> None:
        pass
