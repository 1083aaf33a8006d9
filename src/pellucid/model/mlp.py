"""The MLP of a layer, gated or not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.config import XIELU as WEIGHTS_OF_XIELU
from pellucid.config import MLPConfig
from pellucid.model.context import Context
from pellucid.model.invariant import rows_invariant_gelu_tanh, rows_invariant_silu
from pellucid.model.linear import Linear, for_products, scaled

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}
ROWS_INVARIANT = ACTIVATIONS | {"silu": rows_invariant_silu, "gelu_tanh": rows_invariant_gelu_tanh}


class XIELU(nn.Module):
    """α_p x² + β x where x > 0, else α_n (e^min(x, ε) − 1 − x) + β x; α_p = softplus(a_p), α_n = β + softplus(a_n).

    β and ε are as the checkpoint has them: nothing learns them. Source: Huang & Schlag 2024 (xIELU).
    """

    alpha_p: Tensor
    alpha_n: Tensor
    beta: Tensor
    eps: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in WEIGHTS_OF_XIELU:
            self.register_parameter(name, nn.Parameter(torch.zeros(1)))

    def forward(self, x: Float[Tensor, "*rows F"]) -> Float[Tensor, "*rows F"]:
        beta, eps = self.beta.detach(), self.eps.detach()
        positive, negative = F.softplus(self.alpha_p), beta + F.softplus(self.alpha_n)
        bent = (torch.expm1(torch.minimum(x, eps)) - x) * negative
        return torch.where(x > 0, positive * x * x + beta * x, bent + beta * x)


class MLP(nn.Module):
    """down(act(up(x))), or gated: down(act(gate(x)) ⊙ up(x)).

    Source: Vaswani et al. 2017 §3.3; Shazeer 2020 (gated).
    """

    def __init__(self, d_model: int, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        self.gate_proj = Linear(d_model, config.d_ff, bias=config.bias) if config.gated else None
        self.up_proj = Linear(d_model, config.d_ff, bias=config.bias)
        self.down_proj = Linear(config.d_ff, d_model, bias=config.bias)
        self.xielu = XIELU() if config.activation == "xielu" else None

    def forward(self, x: Float[Tensor, "B T D"], ctx: Context) -> Float[Tensor, "B T D"]:
        x = for_products(ctx.tap(self, "mlp_in", x))
        if self.gate_proj is None:
            act = self.activate(ctx.tap(self, "mlp_pre", self.up_proj(x, ctx)), ctx)  # (B, T, F)
        else:
            gate = ctx.tap(self, "mlp_pre", scaled(self.gate_proj(x, ctx), self.config.gate_scale))
            up = ctx.tap(self, "mlp_up", self.up_proj(x, ctx))
            act = self.activate(gate, ctx) * self.limited(up)  # (B, T, F)
        return scaled(self.down_proj(ctx.tap(self, "mlp_act", act), ctx), self.config.down_scale)

    def activate(self, x: Tensor, ctx: Context) -> Tensor:
        """The activation of what is no larger than the limit, where there is one."""
        limit, alpha = self.config.limit, self.config.alpha
        x = x if limit is None else x.clamp(max=limit)
        if alpha != 1:
            return x / (torch.exp(-alpha * x) + 1)  # steps that round alike at every place
        if self.xielu is not None:
            return self.xielu(x)
        return (ROWS_INVARIANT if ctx.rows_invariant else ACTIVATIONS)[self.config.activation](x)

    def limited(self, up: Tensor) -> Tensor:
        """What the gate multiplies."""
        limit, offset = self.config.limit, self.config.up_offset
        up = up if limit is None else up.clamp(-limit, limit)
        return up + offset if offset else up
