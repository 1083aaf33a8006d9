"""The gated short convolution: a mixer that looks a few tokens back."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from pellucid.config import ShortConvConfig
from pellucid.model.context import Context
from pellucid.model.convolve import Convolution
from pellucid.model.linear import Linear, for_products
from pellucid.model.recurrent_state import RecurrentState
from pellucid.model.texts import by_text, without_padding


class ShortConv(nn.Module):
    """(c ⊙ conv(b ⊙ u)) W_oᵀ; b, c, u = x W_bᵀ, x W_cᵀ, x W_uᵀ. Source: Liquid AI 2025 (LFM2)."""

    def __init__(self, d_model: int, config: ShortConvConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.b_proj = Linear(d_model, config.channels, bias=config.bias)
        self.u_proj = Linear(d_model, config.channels, bias=config.bias)
        self.c_proj = Linear(d_model, config.channels, bias=config.bias)
        self.conv = Convolution(config.channels, config.width, config.bias)
        self.o_proj = Linear(config.channels, d_model, bias=config.bias)

    def forward(self, x: Float[Tensor, "B T D"], ctx: Context) -> Float[Tensor, "B T D"]:
        x = for_products(ctx.tap(self, "attn_in", x))
        b = ctx.tap(self, "conv_b", self.b_proj(x, ctx))  # (B, T, C)
        u = ctx.tap(self, "conv_u", self.u_proj(x, ctx))
        c = ctx.tap(self, "conv_c", self.c_proj(x, ctx))
        u = ctx.tap(self, "conv_in", b * u)
        y = ctx.tap(self, "conv", ctx.by_request(self.mix, u))
        return self.o_proj(ctx.tap(self, "conv_out", c * y), ctx)

    def mix(self, ctx: Context, u: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """One request's tokens, or a batch's of one length."""
        u = without_padding(ctx, u)
        if ctx.cache is None:
            return by_text(ctx, lambda u: self.conv(u)[0], u)
        state = ctx.cache.layers[self.layer]
        assert isinstance(state, RecurrentState)
        y, last = self.conv(u, state["conv"])
        state.step(u.shape[1], conv=last)
        return y
