"""Latent attention (MLA): keys and values of all heads are made of one narrow vector a token, and that is kept."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.config import LatentAttentionConfig
from pellucid.model.attend import Attends, explicit, sdpa
from pellucid.model.cache import Cache
from pellucid.model.context import Context
from pellucid.model.keys_values import FullCache, WindowCache
from pellucid.model.linear import Linear, for_products
from pellucid.model.norm import make_norm
from pellucid.model.position import query_growth, rotate


class LatentAttention(Attends):
    """k = [turn(W_KR x); W_UK c], v = W_UV c of a latent c = norm(W_DKV x); z = softmax(q kᵀ · scale + mask) v by head,
    then z W_o (+ b). Source: DeepSeek-AI 2024 (DeepSeek-V2) §2.1.

    C is the latent's width, R the rotated part of a head, N the other, E = R + N, U the width of a head's values.
    """

    config: LatentAttentionConfig

    def __init__(self, d_model: int, config: LatentAttentionConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer, bias = config, layer, config.latent_bias
        if config.q_lora_rank is None:
            self.q_proj = Linear(d_model, config.q_dim, bias=False)
        else:
            self.q_a_proj = Linear(d_model, config.q_lora_rank, bias=bias)
            self.q_a_norm = make_norm(config.q_lora_rank, config.latent_norm)
            self.q_b_proj = Linear(config.q_lora_rank, config.q_dim, bias=False)
        self.kv_a_proj = Linear(d_model, config.kv_lora_rank, bias=bias)
        self.kv_a_norm = make_norm(config.kv_lora_rank, config.latent_norm)
        self.k_rope_proj = Linear(d_model, config.qk_rope_head_dim, bias=bias)
        self.k_b_proj = Linear(config.kv_lora_rank, config.num_heads * config.qk_nope_head_dim, bias=False)
        self.v_b_proj = Linear(config.kv_lora_rank, config.z_dim, bias=False)
        self.o_proj = Linear(config.z_dim, d_model, bias=config.o_bias)

    def forward(self, x: Float[Tensor, "B T D"], ctx: Context) -> Float[Tensor, "B T D"]:
        x = for_products(ctx.tap(self, "attn_in", x))
        q = self._queries(x, ctx)  # (B, H, T, E)
        c = ctx.tap(self, "c_kv", self.kv_a_proj(x, ctx))  # (B, T, C)
        c = ctx.tap(self, "c_kv_norm", self.kv_a_norm(c))
        k = ctx.tap(self, "k_shared", self.k_rope_proj(x, ctx)[:, None])  # (B, 1, T, R)
        if (rope := self.config.rope) is not None:
            cos, sin = ctx.rotations[rope]
            q = ctx.tap(self, "q_rot", rotate(q, cos, sin, rope.layout))
            k = ctx.tap(self, "k_rot", rotate(k, cos, sin, rope.layout))
        if (scale := self.config.query_scale) is not None:
            q = ctx.tap(self, "q_scaled", q * query_growth(scale, ctx.positions).to(q.dtype))
        if ctx.sums is not None:
            own = self.k_b_proj(c, ctx)[:, None]
            ctx.sums += (x.detach().sum((0, 1, 3), dtype=torch.float32) for x in (q, k, own))
        z = ctx.tap(self, "z", ctx.by_request(self.mix, q, k, c[:, None]))  # (B, H, T, U)
        return self.o_proj(z.transpose(1, 2).flatten(2), ctx)

    def mix(self, ctx: Context, q: Tensor, k: Tensor, c: Tensor) -> Float[Tensor, "B H T U"]:
        """One request's tokens, or a batch's of one length, by the pass's way to attend."""
        if ctx.cache is not None:
            kept, *_ = self._state(ctx.cache).append(torch.cat((k, c), -1), c[..., :0])
            if q.shape[2] == 1 and ctx.attend is not explicit:
                return self._absorbed(q, kept, ctx)
            k, c = kept.split((k.shape[-1], c.shape[-1]), -1)
        own = ctx.tap(self, "k", self._by_head(self.k_b_proj(c[:, 0], ctx)))  # (B, H, S, N)
        v = ctx.tap(self, "v", self._by_head(self.v_b_proj(c[:, 0], ctx)))  # (B, H, S, U)
        k = ctx.tap(self, "k_whole", torch.cat((k.expand(-1, own.shape[1], -1, -1), own), -1))  # (B, H, S, E)
        return (ctx.attend or sdpa)(self, q, k, v, ctx)

    def remembered(self, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, int]:
        """They are of all tokens: ``mix`` has kept the new ones."""
        return k, v, 0 if ctx.cache is None else self._state(ctx.cache).length - k.shape[2]

    def _state(self, cache: Cache) -> FullCache | WindowCache:
        state = cache.layers[self.layer]
        assert isinstance(state, FullCache | WindowCache)
        return state

    def _absorbed(self, q: Tensor, kept: Tensor, ctx: Context) -> Float[Tensor, "B H 1 U"]:
        """One query's result, without a key or value of any token: q·(W_UK c) is (W_UKᵀ q)·c, and Σ a_j (W_UV c_j) is
        W_UV (Σ a_j c_j).
        """
        turned, own = q.split((self.config.qk_rope_head_dim, self.config.qk_nope_head_dim), -1)
        keys, values = (
            proj.weight.unflatten(0, (self.config.num_heads, -1)) for proj in (self.k_b_proj, self.v_b_proj)
        )
        asked = torch.cat((turned, own.contiguous() @ keys), -1)  # (B, H, 1, R + C)
        z = (ctx.attend or sdpa)(self, asked, kept, kept[..., self.config.qk_rope_head_dim :], ctx)  # (B, H, 1, C)
        return z.contiguous() @ values.mT

    def _queries(self, x: Float[Tensor, "B T D"], ctx: Context) -> Float[Tensor, "B H T E"]:
        if self.config.q_lora_rank is None:
            return ctx.tap(self, "q", self._by_head(self.q_proj(x, ctx)))
        c = ctx.tap(self, "c_q", self.q_a_proj(x, ctx))
        c = ctx.tap(self, "c_q_norm", self.q_a_norm(c))
        return ctx.tap(self, "q", self._by_head(self.q_b_proj(c, ctx)))

    def _by_head(self, x: Float[Tensor, "B T HE"]) -> Float[Tensor, "B H T E"]:
        return x.unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)
