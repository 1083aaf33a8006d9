"""Attention: project to queries, keys and values; normalize, rotate; attend; project back."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.config import AttentionConfig
from pellucid.model.attend import Attends, sdpa
from pellucid.model.context import Context
from pellucid.model.gates import gate
from pellucid.model.linear import Linear, for_products, scaled
from pellucid.model.norm import optional_norm
from pellucid.model.position import query_growth, rotate


class Attention(Attends):
    """z = softmax(q kᵀ · scale + mask) v by head, then z W_o (+ b). Source: Vaswani et al. 2017; GQA: Ainslie et al.
    2023.
    """

    config: AttentionConfig
    shown = False  # whoever has it has shown what it reads

    k_proj: Linear  # where it has keys of its own
    v_proj: Linear

    def __init__(self, d_model: int, config: AttentionConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.q_proj = Linear(d_model, config.q_dim, bias=config.qkv_bias)
        for part in config.projected[1:]:
            width = config.kv_dim if part == "k" else config.v_dim
            self.add_module(f"{part}_proj", Linear(d_model, width, bias=config.qkv_bias))
        alike = config.qk_norm_over == "head"
        self.q_norm = optional_norm(config.head_dim if alike else config.q_dim, config.qk_norm_of(config.num_heads))
        k_norm = None if config.kv_from is not None else config.qk_norm_of(config.num_kv_heads)
        self.k_norm = optional_norm(config.head_dim if alike else config.kv_dim, k_norm)
        self.v_norm = optional_norm(config.v_width, config.v_norm)
        self.sinks = nn.Parameter(torch.zeros(config.num_heads)) if config.sinks else None
        self.gate_proj = Linear(d_model, config.z_dim, bias=config.qkv_bias) if config.gated else None
        self.o_proj = Linear(config.z_dim, d_model, bias=config.o_bias)

    def forward(self, x: Float[Tensor, "B T D"], ctx: Context) -> Float[Tensor, "B T D"]:
        x = for_products(x if self.shown else ctx.tap(self, "attn_in", x))
        if self.config.in_scale != 1:
            x = ctx.tap(self, "attn_scaled", x * self.config.in_scale)
        q = ctx.tap(self, "q", self._by_head(self._clipped(self.q_proj(x, ctx))))  # (B, H, T, E)
        k, v = self._keys_and_values(x, ctx)  # (B, K, T, E); None where they are another layer's
        q, k = self._normed(q, k, ctx, "before")
        if (rope := self.config.rope) is not None:
            cos, sin = ctx.rotations[rope]
            q = ctx.tap(self, "q_rot", rotate(q, cos, sin, rope.layout))
            k = None if k is None else ctx.tap(self, "k_rot", rotate(k, cos, sin, rope.layout))
        q, k = self._normed(q, k, ctx, "after")
        if (scale := self.config.query_scale) is not None:
            q = ctx.tap(self, "q_scaled", q * query_growth(scale, ctx.positions).to(q.dtype))
        if ctx.sums is not None:
            ctx.sums += (x.detach().sum((0, 1, 3), dtype=torch.float32) for x in (q, k) if x is not None)
        made = (q,) if k is None or v is None else (q, k, v)
        z = ctx.tap(self, "z", ctx.by_request(self.mix, *made))  # (B, H, T, E)
        if self.gate_proj is not None:
            opened = ctx.tap(self, "z_gate", self._by_head(self.gate_proj(x, ctx), self.config.v_width))
            z = ctx.tap(self, "z_gated", z * gate("sigmoid", opened, ctx))
        return scaled(self.o_proj(z.transpose(1, 2).flatten(2), ctx), self.config.out_scale)

    def _keys_and_values(self, x: Float[Tensor, "B T D"], ctx: Context) -> tuple[Tensor | None, Tensor | None]:
        """As projected, values normed."""
        if self.config.kv_from is not None:
            return None, None
        k = ctx.tap(self, "k", self._by_head(self._clipped(scaled(self.k_proj(x, ctx), self.config.k_scale))))
        v = ctx.tap(self, "v", k if self.config.keys_are_values else self._values(x, ctx))
        return k, v if self.v_norm is None else ctx.tap(self, "v_norm", self.v_norm(v))

    def _values(self, x: Float[Tensor, "B T D"], ctx: Context) -> Float[Tensor, "B K T E"]:
        v = self._clipped(self.v_proj(x, ctx))
        return self._by_head(v if self.config.v_scale == 1 else v * self.config.v_scale, self.config.v_width)

    def remembered(self, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, int]:
        """All keys and values: its own, or those of the layer that lends them."""
        return super().remembered(k, v, ctx) if self.config.kv_from is None else ctx.lent[self.config.kv_from]

    def mix(self, ctx: Context, q: Tensor, *made: Tensor) -> Float[Tensor, "B H T E"]:
        """One request's tokens, or a batch's of one length, by the pass's way to attend."""
        k, v = made or ctx.lent[self.config.kv_from or 0][:2]
        if self.lends and ctx.cache is None:
            ctx.lent[self.layer] = k, v, 0
        return (ctx.attend or sdpa)(self, q, k, v, ctx)

    def _normed(self, q: Tensor, k: Tensor | None, ctx: Context, place: str) -> tuple[Tensor, Tensor | None]:
        """q and k, normalized where the norms stand at this place."""
        if self.q_norm is None or place != self.config.qk_norm_at:
            return q, k
        q = ctx.tap(self, "q_norm", self._each_or_all(self.q_norm, q))
        if k is None or self.k_norm is None:
            return q, k
        return q, ctx.tap(self, "k_norm", self._each_or_all(self.k_norm, k))

    def _each_or_all(self, norm: nn.Module, x: Float[Tensor, "B H T E"]) -> Float[Tensor, "B H T E"]:
        """Each head by itself, or all heads of a position side by side."""
        if self.config.qk_norm_over == "head":
            return norm(x)
        return self._by_head(norm(x.transpose(1, 2).flatten(2)))

    def _clipped(self, x: Float[Tensor, "B T HE"]) -> Float[Tensor, "B T HE"]:
        return x if (clip := self.config.clip) is None else x.clamp(-clip, clip)

    def _by_head(self, x: Float[Tensor, "B T HE"], width: int | None = None) -> Float[Tensor, "B H T E"]:
        return x.unflatten(-1, (-1, width or self.config.head_dim)).transpose(1, 2)
