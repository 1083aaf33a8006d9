"""Selective scans: a state for each channel that decays by a number of the token's own, and takes the token in.

h_t = exp(Δ_t A) ⊙ h_{t−1} + Δ_t B_t x_t, y_t = C_t · h_t + D x_t. In float32 whatever the model's dtype: the state is
a sum over all tokens. Step by step or many tokens at once, the numbers differ by the order of additions alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pellucid.model.invariant import rows_invariant_softplus

CHUNK = 64  # tokens of one matrix of decays (L, L, heads), or of one table of states


def recurrence(
    decay: Float[Tensor, "B T *S"], added: Float[Tensor, "B T *S"], state: Float[Tensor, "B *S"]
) -> Float[Tensor, "B T *S"]:
    """h_t = a_t ⊙ h_{t−1} + u_t for every t, h_0 the ``state`` before the first; as one token after the other."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in (decay, added, state)):
        return _Recurrence.apply(decay, added, state)
    return _run(decay, added, state)


def _run(decay: Tensor, added: Tensor, state: Tensor) -> Tensor:
    states = torch.empty_like(added)
    for t in range(added.shape[1]):
        state = torch.addcmul(added[:, t], decay[:, t], state, out=states[:, t])
    return states


class _Recurrence(torch.autograd.Function):
    """Its gradient is a recurrence, too, from the last token to the first: g_t = ∂h_t + a_{t+1} ⊙ g_{t+1}."""

    @staticmethod
    def forward(ctx, decay: Tensor, added: Tensor, state: Tensor) -> Tensor:
        states = _run(decay, added, state)
        ctx.save_for_backward(decay, state, states)
        return states

    @staticmethod
    def backward(ctx, *outgoing: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, state, states = ctx.saved_tensors
        (grad,) = outgoing
        later = torch.cat((decay[:, 1:], torch.zeros_like(decay[:, :1])), 1)  # what leads on from each
        reached = _run(later.flip(1), grad.flip(1), torch.zeros_like(state)).flip(1)
        before = torch.cat((state[:, None], states[:, :-1]), 1)
        return reached * before, reached, decay[:, 0] * reached[:, 0]


def by_channel(
    x: Float[Tensor, "B T I"],
    dt: Float[Tensor, "B T I"],
    a: Float[Tensor, "I N"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    state: Float[Tensor, "B I N"] | None = None,
) -> tuple[Float[Tensor, "B T I"], Float[Tensor, "B I N"]]:
    """Mamba's: each channel has N numbers that decay each at its own rate. Returns C_t · h_t, and the last state.

    ``state``: None before the first token. Source: Gu & Dao 2023, algorithm 2.
    """
    state = dt.new_zeros(*x.shape[::2], b.shape[-1]) if state is None else state
    made = []
    for x_, dt_, b_, c_ in _chunks(x, dt, b, c):
        decay = torch.exp(dt_[..., None] * a)  # (B, L, I, N)
        states = recurrence(decay, (dt_ * x_)[..., None] * b_[:, :, None], state)
        made.append((states * c_[:, :, None]).sum(-1))
        state = states[:, -1]
    return torch.cat(made, 1), state


def by_head(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    a: Float[Tensor, "H"],
    b: Float[Tensor, "B T G N"],
    c: Float[Tensor, "B T G N"],
    state: Float[Tensor, "B H P N"] | None = None,
) -> tuple[Float[Tensor, "B T H P"], Float[Tensor, "B H P N"]]:
    """Mamba-2's: all numbers of a head decay alike, so a chunk of tokens is matrix products; H / G heads share B and C.

    Within a chunk y_t = Σ_{j ≤ t} (C_t · B_j) exp(Σ_{j<i≤t} Δ_i A) Δ_j x_j, as attention without a softmax; what came
    before it enters by the state. Source: Dao & Gu 2024, §6 (state-space duality).
    """
    heads = x.shape[2] // b.shape[2]
    state = dt.new_zeros(x.shape[0], *x.shape[2:], b.shape[-1]) if state is None else state
    made = []
    for x_, dt_, b_, c_ in _chunks(x, dt, b, c):
        b_, c_ = (part.repeat_interleave(heads, 2).transpose(1, 2) for part in (b_, c_))  # (B, H, L, N)
        u = (x_ * dt_[..., None]).transpose(1, 2)  # (B, H, L, P)
        fades = (dt_ * a).transpose(1, 2)  # (B, H, L) logarithms of the decays
        if x_.shape[1] == 1:
            state = torch.exp(fades)[..., None] * state + u.mT * b_
            made.append((state @ c_.mT).permute(0, 3, 1, 2))
            continue
        since = _sums(fades)  # (B, H, L, L)
        whole = fades.cumsum(-1)  # (B, H, L) since the chunk began
        y = (c_ @ b_.mT * torch.exp(since)) @ u + torch.exp(whole)[..., None] * (c_ @ state.mT)
        left = torch.exp(since[..., -1, :])[..., None]  # of each token when the chunk ends
        state = torch.exp(whole[..., -1])[..., None, None] * state + u.mT @ (b_ * left)
        made.append(y.transpose(1, 2))
    return torch.cat(made, 1), state


def _sums(fades: Float[Tensor, "*B L"]) -> Float[Tensor, "*B L L"]:
    """Σ_{j<i≤t} of row t and column j, −∞ where j is after t. Each is summed by itself: a difference of two long sums
    would have lost its digits.
    """
    length = fades.shape[-1]
    later = torch.ones(length, length, dtype=torch.bool, device=fades.device).tril(-1)
    sums = torch.where(later, fades[..., :, None], 0.0).cumsum(-2)
    return sums.masked_fill(~(later | torch.eye(length, dtype=torch.bool, device=fades.device)), -torch.inf)


def _chunks(*values: Float[Tensor, "B T *_"]) -> Iterator[tuple[Tensor, ...]]:
    """The tokens by CHUNK at a time, in float32 at least."""
    wide = torch.promote_types(values[0].dtype, torch.float32)
    for start in range(0, values[0].shape[1], CHUNK):
        yield tuple(value[:, start : start + CHUNK].to(wide) for value in values)


def step_sizes(
    r: Float[Tensor, "B T H"],
    bias: Float[Tensor, "H"],
    low: float = 0.0,
    high: float | None = None,
    *,
    rows_invariant: bool = False,
) -> Float[Tensor, "B T H"]:
    """Δ = softplus(r + bias), between two bounds; in float32 at least."""
    wide = torch.promote_types(r.dtype, torch.float32)
    softplus = rows_invariant_softplus if rows_invariant else F.softplus
    dt = softplus(r.to(wide) + bias.to(wide))
    return dt if low == 0 and high is None else dt.clamp(low, high)
