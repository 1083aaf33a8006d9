"""What a layer makes of the narrow vector that each token has for it (per-layer embeddings)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from pellucid.config import SideConfig
from pellucid.model.context import Context
from pellucid.model.linear import Linear, for_products
from pellucid.model.mlp import ACTIVATIONS, ROWS_INVARIANT
from pellucid.model.norm import make_norm


@dataclass(frozen=True)
class SideInputs:
    """Of a pass, for all layers: rows of the table, what the map makes of the embeddings, and its ``norm``."""

    rows: Float[Tensor, "B T LP"]
    mapped: Float[Tensor, "B T LP"]
    norm: nn.Module


class Side(nn.Module):
    """norm(W_down (act(W_gate x) ⊙ s)), s of this layer. Source: see ``SideConfig``."""

    def __init__(self, d_model: int, config: SideConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.gate_proj = Linear(d_model, config.width, bias=False)
        self.down_proj = Linear(config.width, d_model, bias=False)
        self.norm = make_norm(d_model, config.norm)

    def forward(self, x: Float[Tensor, "B T D"], ctx: Context) -> Float[Tensor, "B T D"]:
        inputs, width = ctx.side, self.config.width
        assert inputs is not None
        own = slice(self.layer * width, (self.layer + 1) * width)
        row = ctx.tap(self, "side_row", inputs.rows[..., own])  # (B, T, P)
        mapped = ctx.tap(self, "side_mapped", inputs.mapped[..., own])
        mapped = ctx.tap(self, "side_norm", inputs.norm(mapped))
        both = ctx.tap(self, "side_sum", mapped + row)
        side = ctx.tap(self, "side_in", both * 2**-0.5)
        gate = ctx.tap(self, "side_pre", self.gate_proj(for_products(x), ctx))
        act = (ROWS_INVARIANT if ctx.rows_invariant else ACTIVATIONS)[self.config.activation](gate)
        act = ctx.tap(self, "side_act", act * side)
        return ctx.tap(self, "side_out", self.norm(ctx.tap(self, "side_proj", self.down_proj(act, ctx))))
