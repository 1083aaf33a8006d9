"""Attention: project to queries, keys and values; normalize, rotate; attend; project back."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from pellucid.config import AttentionConfig
from pellucid.model.context import Context
from pellucid.model.linear import Linear, for_products
from pellucid.model.norm import make_norm
from pellucid.model.position import rotate


class Attention(nn.Module):
    """z = softmax(q kᵀ · scale + mask) v by head, then z W_o (+ b). Source: Vaswani et al. 2017; GQA: Ainslie et al.
    2023.
    """

    def __init__(self, d_model: int, config: AttentionConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.q_proj = Linear(d_model, config.q_dim, bias=config.qkv_bias)
        self.k_proj = Linear(d_model, config.kv_dim, bias=config.qkv_bias)
        self.v_proj = Linear(d_model, config.kv_dim, bias=config.qkv_bias)
        self.q_norm = make_norm(config.head_dim, config.qk_norm) if config.qk_norm else None
        self.k_norm = make_norm(config.head_dim, config.qk_norm) if config.qk_norm else None
        self.o_proj = Linear(config.q_dim, d_model, bias=config.o_bias)

    def forward(self, x: Float[Tensor, "B T D"], ctx: Context) -> Float[Tensor, "B T D"]:
        x = for_products(ctx.tap(self, "attn_in", x))
        q = ctx.tap(self, "q", self._by_head(self.q_proj(x, ctx)))  # (B, H, T, E)
        k = ctx.tap(self, "k", self._by_head(self.k_proj(x, ctx)))  # (B, K, T, E)
        v = ctx.tap(self, "v", self._by_head(self.v_proj(x, ctx)))  # (B, K, T, E)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = ctx.tap(self, "q_norm", self.q_norm(q)), ctx.tap(self, "k_norm", self.k_norm(k))
        if (rope := self.config.rope) is not None:
            cos, sin = ctx.rotations[rope]
            q = ctx.tap(self, "q_rot", rotate(q, cos, sin, rope.layout))
            k = ctx.tap(self, "k_rot", rotate(k, cos, sin, rope.layout))
        z = ctx.tap(self, "z", ctx.attend(self, q, k, v, ctx))  # (B, H, T, E)
        return ctx.tap(self, "attn_out", self.o_proj(z.transpose(1, 2).flatten(2), ctx))

    def _by_head(self, x: Float[Tensor, "B T HE"]) -> Float[Tensor, "B H T E"]:
        return x.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)
