"""Gated DeltaNet: a mixer with a memory that each token corrects."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.config import DeltaNetConfig
from pellucid.model.context import Context
from pellucid.model.convolve import Convolution
from pellucid.model.delta_rule import reads, writes
from pellucid.model.gates import gate
from pellucid.model.linear import Linear, for_products
from pellucid.model.norm import make_norm
from pellucid.model.recurrent_state import RecurrentState
from pellucid.model.texts import by_text, without_padding

EPS = 1e-6  # of the squared length of q and k


class DeltaNet(nn.Module):
    """z = norm(Sᵀ q / √E) ⊙ gate, then z W_oᵀ; S by the gated delta rule. See ``DeltaNetConfig`` and ``delta_rule``."""

    def __init__(self, d_model: int, config: DeltaNetConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.q_proj = Linear(d_model, config.q_dim, bias=False)
        self.k_proj = Linear(d_model, config.q_dim, bias=False)
        self.v_proj = Linear(d_model, config.v_dim, bias=False)
        self.q_conv = Convolution(config.q_dim, config.conv_width, bias=False)
        self.k_conv = Convolution(config.q_dim, config.conv_width, bias=False)
        self.v_conv = Convolution(config.v_dim, config.conv_width, bias=False)
        self.decay_proj, self.decay_a_proj, self.decay_b_proj = _through(d_model, config.decay_rank, config.decay_dim)
        self.gate_proj, self.gate_a_proj, self.gate_b_proj = _through(d_model, config.gate_rank, config.v_dim)
        self.beta_proj = Linear(d_model, config.num_heads, bias=False)
        self.A_log = nn.Parameter(torch.empty(config.num_heads))
        self.dt_bias = nn.Parameter(torch.empty(config.decay_dim))
        self.z_norm = make_norm(config.value_head_dim, config.norm)
        self.o_proj = Linear(config.v_dim, d_model, bias=False)

    def forward(self, x: Float[Tensor, "B T D"], ctx: Context) -> Float[Tensor, "B T D"]:
        config, x = self.config, for_products(ctx.tap(self, "attn_in", x))
        q = self._tapped(ctx, "q", self.q_proj(x, ctx), config.key_head_dim)  # (B, T, KE)
        k = self._tapped(ctx, "k", self.k_proj(x, ctx), config.key_head_dim)
        v = self._tapped(ctx, "v", self.v_proj(x, ctx), config.value_head_dim)  # (B, T, HV)
        d, b = self._fading(x, ctx), ctx.tap(self, "beta_in", self.beta_proj(x, ctx))  # (B, T, ·), (B, T, H)
        if config.decay_by == "head":
            d = ctx.tap(self, "decay_in", d)
        else:
            d = self._tapped(ctx, "decay_in", d, config.key_head_dim)
        z = _by_head(ctx.by_request(self.mix, q, k, v, d, b), config.value_head_dim)
        wide, dtype = torch.promote_types(z.dtype, torch.float32), z.dtype
        z = ctx.tap(self, "z", z)  # (B, H, T, V)
        z = ctx.tap(self, "z_norm", self.z_norm(z.to(wide) if config.norm.wide else z))  # wide: not rounded until gated
        opened = ctx.tap(self, "z_gate", _by_head(self._gate(x, ctx), config.value_head_dim))
        z = ctx.tap(self, "z_gated", (z * gate(config.gate, opened.to(wide), ctx)).to(dtype))
        return self.o_proj(_side_by_side(z), ctx)

    def mix(self, ctx: Context, *values: Tensor) -> Float[Tensor, "B T HV"]:
        """One request's tokens, or a batch's of one length: q, k, v, and what α and β are made of, all (B, T, ·)."""
        if ctx.cache is None:
            return by_text(ctx, partial(self._through, ctx, None), *values)
        state = ctx.cache.layers[self.layer]
        assert isinstance(state, RecurrentState)
        return self._through(ctx, state, *values)

    def _through(
        self, ctx: Context, state: RecurrentState | None, q: Tensor, k: Tensor, v: Tensor, d: Tensor, b: Tensor
    ) -> Float[Tensor, "B T HV"]:
        """Texts from their beginning, or on from a state."""
        config, dtype = self.config, v.dtype
        wide = torch.promote_types(dtype, torch.float32)
        (q, last_q), (k, last_k), (v, last_v) = (
            conv(without_padding(ctx, value), None if state is None else state[name])
            for name, conv, value in (("q", self.q_conv, q), ("k", self.k_conv, k), ("v", self.v_conv, v))
        )
        q = ctx.tap(self, "q_conv", _by_head(F.silu(q), config.key_head_dim)).to(wide)  # (B, K, T, E)
        k = ctx.tap(self, "k_conv", _by_head(F.silu(k), config.key_head_dim)).to(wide)
        v = ctx.tap(self, "v_conv", _by_head(F.silu(v), config.value_head_dim)).to(wide)  # (B, H, T, V)
        with torch.autocast(v.device.type, enabled=False):
            q = ctx.tap(self, "q_norm", _unit(q) * config.key_head_dim**-0.5)
            k = ctx.tap(self, "k_norm", _unit(k))
            decay = self._decay(ctx, d.to(wide))  # (B, H, T, 1) or (B, H, T, E)
            beta = ctx.tap(self, "beta", config.beta_scale * torch.sigmoid(b).to(wide))
            beta = without_padding(ctx, beta).mT[..., None]  # (B, H, T, 1)
            groups = config.num_heads // config.num_key_heads
            q, k = (value.repeat_interleave(groups, 1) for value in (q, k))
            memory = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3]) if state is None else state["memory"].to(wide)
            written, after = writes(k, v, decay, beta, memory)
            z = reads(q, k, ctx.tap(self, "write", written), decay, memory)  # (B, H, T, V)
        if state is not None:
            state.step(z.shape[2], memory=after, q=last_q, k=last_k, v=last_v)
        return _side_by_side(z).to(dtype)

    def _decay(self, ctx: Context, d: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T D"]:
        """log α = −e^A · softplus(d + bias); 0 at padding: there the memory stays as it is."""
        rate, shifted = -self.A_log.to(d.dtype).exp(), F.softplus(d + self.dt_bias.to(d.dtype))
        if self.config.decay_by == "head":
            return without_padding(ctx, ctx.tap(self, "decay", rate * shifted)).mT[..., None]
        decay = _by_head(shifted, self.config.key_head_dim) * rate[:, None, None]
        return without_padding(ctx, ctx.tap(self, "decay", decay).transpose(1, 2)).transpose(1, 2)

    def _fading(self, x: Tensor, ctx: Context) -> Float[Tensor, "B T D"]:
        """What α is made of."""
        if self.decay_a_proj is None or self.decay_b_proj is None:
            assert self.decay_proj is not None
            return self.decay_proj(x, ctx)
        return self.decay_b_proj(ctx.tap(self, "decay_a", self.decay_a_proj(x, ctx)), ctx)

    def _gate(self, x: Tensor, ctx: Context) -> Float[Tensor, "B T HV"]:
        """What the gate is made of."""
        if self.gate_a_proj is None or self.gate_b_proj is None:
            assert self.gate_proj is not None
            return self.gate_proj(x, ctx)
        return self.gate_b_proj(ctx.tap(self, "gate_a", self.gate_a_proj(x, ctx)), ctx)

    def _tapped(self, ctx: Context, name: str, x: Float[Tensor, "B T HE"], width: int) -> Float[Tensor, "B T HE"]:
        """Shown by head."""
        return x if ctx.recorder is None else _side_by_side(ctx.tap(self, name, _by_head(x, width)))

    def initialize_weight(self, leaf: str, weight: Tensor, generator: torch.Generator | None) -> None:
        """e^A ~ U(1, 16); softplus(bias) from 0.001 to 0.1, its logarithm even (Mamba: Gu & Dao 2023 §3.6)."""
        if leaf == "A_log":
            weight.uniform_(1.0, 16.0, generator=generator).log_()
        else:
            dt = weight.uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp_()
            weight.copy_(dt + torch.log(-torch.expm1(-dt)))


def _through(into: int, rank: int | None, out: int) -> tuple[Linear | None, Linear | None, Linear | None]:
    """One linear map, or two through a narrow waist."""
    if rank is None:
        return Linear(into, out, bias=False), None, None
    return None, Linear(into, rank, bias=False), Linear(rank, out, bias=False)


def _unit(x: Float[Tensor, "B H T E"]) -> Float[Tensor, "B H T E"]:
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + EPS)


def _by_head(x: Float[Tensor, "B T HE"], width: int) -> Float[Tensor, "B H T E"]:
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


def _side_by_side(x: Float[Tensor, "B H T E"]) -> Float[Tensor, "B T HE"]:
    return x.transpose(1, 2).flatten(2)
