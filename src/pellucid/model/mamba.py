"""State-space mixers: Mamba, whose channels each keep a state, and Mamba-2, whose heads do."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.config import Mamba2Config, MambaConfig
from pellucid.model.context import Context
from pellucid.model.convolve import Convolution
from pellucid.model.linear import Linear, for_products, scaled
from pellucid.model.mlp import ACTIVATIONS, ROWS_INVARIANT
from pellucid.model.norm import optional_norm
from pellucid.model.recurrent_state import RecurrentState
from pellucid.model.scan import by_channel, by_head, step_sizes
from pellucid.model.texts import by_text, without_padding

STEPS = (0.001, 0.1, 1e-4)  # a new model's Δ lie between the first two; none is below the third


class StateSpace(nn.Module):
    """What both have: A = −exp(A_log), D and the bias of Δ, and how they begin. Source: Gu & Dao 2023 §3.6, E.2."""

    shown = False  # whoever has it has shown what it reads

    def __init__(self, rows: int, state_size: int | None) -> None:
        super().__init__()
        self.dt_bias = nn.Parameter(torch.empty(rows))
        self.A_log = nn.Parameter(torch.empty(rows, state_size) if state_size else torch.empty(rows))
        self.D = nn.Parameter(torch.empty(rows))

    @property
    def a(self) -> Tensor:
        """A, in float32 at least."""
        return -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)))

    def initialize_weight(self, leaf: str, weight: Tensor, generator: torch.Generator | None) -> None:
        """A = −1, −2, … along its last axis; D = 1; softplus(bias) uniform on a logarithmic scale."""
        if leaf == "A_log":
            weight.copy_(torch.arange(1, weight.shape[-1] + 1).log().expand_as(weight))
        elif leaf == "D":
            weight.fill_(1.0)
        else:
            low, high, least = STEPS
            drawn = torch.empty(weight.shape).uniform_(math.log(low), math.log(high), generator=generator)
            dt = drawn.exp().clamp(min=least)
            weight.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus, inverted


class Mamba(StateSpace):
    """(scan(x, Δ, B, C) ⊙ silu(z)) W_oᵀ, x = act(conv(u)).

    Source: Gu & Dao 2023; norms of Δ, B and C: Lieber et al. 2024 (Jamba).
    """

    def __init__(self, d_model: int, config: MambaConfig, layer: int) -> None:
        super().__init__(config.channels, config.state_size)
        self.config, self.layer = config, layer
        self.u_proj = Linear(d_model, config.channels, bias=config.bias)
        self.z_proj = Linear(d_model, config.channels, bias=config.bias)
        self.u_conv = Convolution(config.channels, config.width, config.conv_bias)
        self.dt_low_proj = Linear(config.channels, config.dt_rank, bias=False)
        self.dt_low_norm = optional_norm(config.dt_rank, config.inner_norm)
        self.b_proj = Linear(config.channels, config.state_size, bias=False)
        self.b_norm = optional_norm(config.state_size, config.inner_norm)
        self.c_proj = Linear(config.channels, config.state_size, bias=False)
        self.c_norm = optional_norm(config.state_size, config.inner_norm)
        self.dt_proj = Linear(config.dt_rank, config.channels, bias=False)
        self.o_proj = Linear(config.channels, d_model, bias=config.bias)

    def forward(self, x: Float[Tensor, "B T D"], ctx: Context) -> Float[Tensor, "B T D"]:
        read = for_products(x if self.shown else ctx.tap(self, "attn_in", x))
        z = ctx.tap(self, "ssm_z", self.z_proj(read, ctx))  # (B, T, I)
        u = ctx.tap(self, "ssm_u", self.u_proj(read, ctx))
        u_conv = ctx.tap(self, "ssm_u_conv", ctx.by_request(self.convolve, u))
        x = ctx.tap(self, "ssm_x", activated(self.config.activation, u_conv, ctx))
        low = self._normed("dt_low", self.dt_low_proj(x, ctx), self.dt_low_norm, ctx)  # (B, T, R)
        b = self._normed("b", self.b_proj(x, ctx), self.b_norm, ctx)  # (B, T, N)
        c = self._normed("c", self.c_proj(x, ctx), self.c_norm, ctx)
        dt = ctx.tap(self, "ssm_dt_in", self.dt_proj(low, ctx))  # (B, T, I)
        dt = step_sizes(dt, self.dt_bias, rows_invariant=ctx.rows_invariant)
        dt = ctx.tap(self, "ssm_dt", without_padding(ctx, dt))
        y = ctx.tap(self, "ssm_y", ctx.by_request(self.scan, x, dt, b, c, u))
        gated = ctx.tap(self, "ssm_gated", y * activated("silu", z.to(y.dtype), ctx))
        return self.o_proj(gated.to(read.dtype), ctx)

    def _normed(self, part: str, made: Tensor, norm: nn.Module | None, ctx: Context) -> Tensor:
        made = ctx.tap(self, f"ssm_{part}", made)
        return made if norm is None else ctx.tap(self, f"ssm_{part}_norm", norm(made))

    def convolve(self, ctx: Context, u: Float[Tensor, "B T I"]) -> Float[Tensor, "B T I"]:
        """One request's tokens, or a batch's of one length."""
        return convolved(self.u_conv, ctx, without_padding(ctx, u), state_of(ctx, self.layer), "u")

    def scan(self, ctx: Context, x: Tensor, dt: Tensor, b: Tensor, c: Tensor, u: Tensor) -> Float[Tensor, "B T I"]:
        """Likewise, and the state goes on."""
        skip = self.D.to(dt.dtype) * x
        if (state := state_of(ctx, self.layer)) is None:
            return by_text(ctx, lambda x, dt, b, c: by_channel(x, dt, self.a, b, c)[0], x, dt, b, c) + skip
        y, h = by_channel(x, dt, self.a, b, c, state["h"])
        state.step(x.shape[1], u=last(state["u"], without_padding(ctx, u)), h=h)
        return y + skip


class Mamba2(StateSpace):
    """norm(scan(x, Δ, B, C) ⊙ silu(z)) W_oᵀ; x, B, C = act(conv(…)) of maps u, b, c. Source: Dao & Gu 2024."""

    def __init__(self, d_model: int, config: Mamba2Config, layer: int) -> None:
        super().__init__(config.num_heads, None)
        self.config, self.layer = config, layer
        self.z_proj = Linear(d_model, config.channels, bias=config.bias)
        self.u_proj = Linear(d_model, config.channels, bias=config.bias)
        self.b_proj = Linear(d_model, config.group_size, bias=config.bias)
        self.c_proj = Linear(d_model, config.group_size, bias=config.bias)
        self.dt_proj = Linear(d_model, config.num_heads, bias=config.bias)
        self.u_conv = Convolution(config.channels, config.width, config.conv_bias)
        self.b_conv = Convolution(config.group_size, config.width, config.conv_bias)
        self.c_conv = Convolution(config.group_size, config.width, config.conv_bias)
        self.norm = optional_norm(config.channels, config.norm)
        self.o_proj = Linear(config.channels, d_model, bias=config.o_bias)

    def forward(self, x: Float[Tensor, "B T D"], ctx: Context) -> Float[Tensor, "B T D"]:
        read = for_products(x if self.shown else ctx.tap(self, "attn_in", x))
        if self.config.in_scale != 1:
            read = ctx.tap(self, "ssm_in", read * self.config.in_scale)
        z = ctx.tap(self, "ssm_z", self._by_head(self._scaled("z", self.z_proj(read, ctx))))  # (B, H, T, P)
        u = ctx.tap(self, "ssm_u", self._scaled("u", self.u_proj(read, ctx)))  # (B, T, H · P)
        b = ctx.tap(self, "ssm_b", self._scaled("b", self.b_proj(read, ctx)))  # (B, T, G · N)
        c = ctx.tap(self, "ssm_c", self._scaled("c", self.c_proj(read, ctx)))
        dt = ctx.tap(self, "ssm_dt_in", self._scaled("dt", self.dt_proj(read, ctx)))  # (B, T, H)
        bounds = (self.config.dt_min, self.config.dt_max)
        dt = step_sizes(dt, self.dt_bias, *bounds, rows_invariant=ctx.rows_invariant)
        dt = ctx.tap(self, "ssm_dt", without_padding(ctx, dt))
        y = ctx.tap(self, "ssm_y", self._by_head(ctx.by_request(self.mix, u, b, c, dt)))  # (B, H, T, P)
        gated = self._gated(y, activated("silu", z.to(y.dtype), ctx), ctx)
        return scaled(self.o_proj(gated.transpose(1, 2).flatten(2).to(read.dtype), ctx), self.config.out_scale)

    def _scaled(self, part: str, made: Tensor) -> Tensor:
        return scaled(made, self.config.scale_of(part))

    def mix(self, ctx: Context, u: Tensor, b: Tensor, c: Tensor, dt: Tensor) -> Float[Tensor, "B T I"]:
        """One request's tokens, or a batch's of one length."""
        config, state = self.config, state_of(ctx, self.layer)
        read = {name: without_padding(ctx, value) for name, value in (("u", u), ("b", b), ("c", c))}
        u = ctx.tap(self, "ssm_u_conv", convolved(self.u_conv, ctx, read["u"], state, "u"))
        b = ctx.tap(self, "ssm_b_conv", convolved(self.b_conv, ctx, read["b"], state, "b"))
        c = ctx.tap(self, "ssm_c_conv", convolved(self.c_conv, ctx, read["c"], state, "c"))
        x = ctx.tap(self, "ssm_x", activated(config.activation, u, ctx)).unflatten(-1, (-1, config.head_dim))
        b = ctx.tap(self, "ssm_b_act", activated(config.activation, b, ctx)).unflatten(-1, (-1, config.state_size))
        c = ctx.tap(self, "ssm_c_act", activated(config.activation, c, ctx)).unflatten(-1, (-1, config.state_size))
        skip = self.D.to(dt.dtype)[:, None] * x
        if state is None:
            y = by_text(ctx, lambda x, dt, b, c: by_head(x, dt, self.a, b, c)[0], x, dt, b, c)
        else:
            y, h = by_head(x, dt, self.a, b, c, state["h"])
            state.step(x.shape[1], h=h, **{name: last(state[name], value) for name, value in read.items()})
        return (y + skip).flatten(2)

    def _gated(self, y: Tensor, gate: Tensor, ctx: Context) -> Float[Tensor, "B H T P"]:
        """y through its gate, normed before or after where there is a norm."""
        if self.norm is None:
            return ctx.tap(self, "ssm_gated", y * gate)
        if self.config.norm_at == "after":
            return ctx.tap(self, "ssm_norm", self._normed(ctx.tap(self, "ssm_gated", y * gate)))
        return ctx.tap(self, "ssm_gated", ctx.tap(self, "ssm_norm", self._normed(y)) * gate)

    def _normed(self, y: Float[Tensor, "B H T P"]) -> Float[Tensor, "B H T P"]:
        assert self.norm is not None
        return self._by_head(self.norm(y.transpose(1, 2).flatten(2)))

    def _by_head(self, x: Float[Tensor, "B T HP"]) -> Float[Tensor, "B H T P"]:
        return x.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)


def activated(name: str, x: Tensor, ctx: Context) -> Tensor:
    return (ROWS_INVARIANT if ctx.rows_invariant else ACTIVATIONS)[name](x)


def state_of(ctx: Context, layer: int) -> RecurrentState | None:
    """What a pass with a cache goes on from."""
    if ctx.cache is None:
        return None
    state = ctx.cache.layers[layer]
    assert isinstance(state, RecurrentState)
    return state


def convolved(
    conv: Convolution, ctx: Context, u: Float[Tensor, "B T C"], state: RecurrentState | None, name: str
) -> Float[Tensor, "B T C"]:
    """A convolution on from where a state has stopped; without one, over each text by itself."""
    if state is None:
        return by_text(ctx, lambda u: conv(u)[0], u)
    return conv(u, state[name])[0]


def last(before: Float[Tensor, "B W1 C"], u: Float[Tensor, "B T C"]) -> Float[Tensor, "B W1 C"]:
    """The last of what was there before and has come, as many as there were before."""
    return torch.cat((before.to(u.dtype), u), 1)[:, u.shape[1] :]
