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

    With ``magnitude`` m (N,), learned as well, the rows of V = W + scale · B A have these lengths: x (m · V / ‖V‖)ᵀ +
    b, of which ‖V‖ is taken for a constant. Source: Liu et al. 2024 (DoRA) eq. 5 and 11.

    ``weight`` is what the map amounts to, so that whoever looks at weights, or saves them, sees the model that runs.
    """

    def __init__(
        self,
        base: Linear | QuantizedLinear,
        a: nn.Parameter,
        b: nn.Parameter,
        scale: float,
        dropout: float = 0.0,
        magnitude: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.base, self.lora_a, self.lora_b = base, a, b
        self.lora_magnitude: nn.Parameter | None
        self.register_parameter("lora_magnitude", magnitude)
        self.scale, self.dropout = scale, dropout
        self.enabled = True  # see train.lora.without_adapter

    def forward(self, x: Float[Tensor, "*rows K"], ctx: Context) -> Float[Tensor, "*rows N"]:
        y = self.base(x, ctx)
        if not self.enabled:
            return y
        linear = rows_invariant_linear if ctx.rows_invariant else F.linear
        learning = self.training and torch.is_grad_enabled()  # a look at a model in mid-training sees no dropout
        dropped = F.dropout(x, self.dropout, learning)
        narrow = linear(dropped.to(self.lora_a.dtype), self.lora_a)  # (*rows, r)
        update = self.scale * linear(narrow, self.lora_b)
        if self.lora_magnitude is None:
            return y + update.to(y.dtype)
        factor = self.lora_magnitude / self._lengths()  # (N,)
        if learning and self.dropout:  # what is turned is the dropped input's, as in PEFT
            plain = linear(dropped, self.base.weight.to(x.dtype))
        else:
            plain = y if self.bias is None else y - self.bias
        return y + ((factor - 1) * plain + factor * update).to(y.dtype)

    @torch.no_grad()
    def _lengths(self) -> Float[Tensor, "N"]:
        return torch.linalg.norm(self._sum(), dim=1)

    @torch.no_grad()
    def _sum(self) -> Float[Tensor, "N K"]:
        """W + scale · B A, in float32, under autocast as well: lengths are divided by."""
        with torch.autocast(self.lora_a.device.type, enabled=False):
            return self.base.weight.detach().float() + self.scale * (self.lora_b.float() @ self.lora_a.float())

    @property
    def weight(self) -> nn.Parameter:
        """What x is multiplied by, summed up in float32, in W's dtype; a copy."""
        with torch.no_grad():
            weight = self.base.weight.detach()
            if self.enabled:
                whole = self._sum()
                if self.lora_magnitude is not None:
                    whole *= (self.lora_magnitude.float() / torch.linalg.norm(whole, dim=1))[:, None]
                weight = whole.to(weight.dtype)
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
