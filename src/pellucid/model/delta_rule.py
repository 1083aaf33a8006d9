"""The gated delta rule, many tokens at a time: what each writes into its head's memory, and what it reads there.

With G the running sum of log α within a chunk, the memory that a token finds is what the chunk began with, faded, and
what the tokens before it wrote, each faded since: S'_i = e^{G_i} S_0 + Σ_{j<i} e^{G_i − G_j} k_j w_jᵀ. So the writes of
a chunk solve one triangular system, (I + tril(β A, −1)) W = β (V − e^G K S_0), A_ij = Σ_e k_ie k_je e^{G_ie − G_je}.
Source: Yang et al. 2024 (Parallelizing Linear Transformers with the Delta Rule) §3; Gated Delta Networks §3.3; Kimi
Team 2025 §3.2 (a decay for each channel).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = {"head": 64, "channel": 16}  # by channel the decays between all pairs of tokens take E times the memory

Tokens = Float[Tensor, "B H T E"]
Decay = Float[Tensor, "B H T D"]  # log α; D is 1, or E
Memory = Float[Tensor, "B H E V"]


def writes(
    k: Tokens, v: Float[Tensor, "B H T V"], decay: Decay, beta: Float[Tensor, "B H T 1"], memory: Memory
) -> tuple[Float[Tensor, "B H T V"], Memory]:
    """w_t = β_t (v_t − S'_tᵀ k_t), and the memory after the last token."""
    made = []
    for part in _chunks(k.shape[2], decay):
        k_, v_, beta_, total = k[:, :, part], v[:, :, part], beta[:, :, part], decay[:, :, part].cumsum(2)
        wrong = beta_ * (v_ - (k_ * total.exp()) @ memory)
        if k_.shape[2] > 1:
            system = beta_ * _pairs(k_, k_, total)
            wrong = torch.linalg.solve_triangular(system, wrong, upper=False, unitriangular=True)
        made.append(wrong)
        memory = _after(k_, wrong, total, memory)
    return torch.cat(made, 2), memory


def reads(
    q: Tokens, k: Tokens, written: Float[Tensor, "B H T V"], decay: Decay, memory: Memory
) -> Float[Tensor, "B H T V"]:
    """S_tᵀ q_t of each token, from what was written since ``memory``."""
    made = []
    for part in _chunks(k.shape[2], decay):
        q_, k_, written_, total = q[:, :, part], k[:, :, part], written[:, :, part], decay[:, :, part].cumsum(2)
        made.append((q_ * total.exp()) @ memory + _pairs(q_, k_, total).tril() @ written_)
        memory = _after(k_, written_, total, memory)
    return torch.cat(made, 2)


def _chunks(count: int, decay: Tensor) -> Iterator[slice]:
    size = CHUNK["head" if decay.shape[-1] == 1 else "channel"]
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _pairs(x: Tokens, k: Tokens, total: Decay) -> Float[Tensor, "B H C C"]:
    """Σ_e x_ie k_je e^{G_ie − G_je} for j ≤ i, else 0."""
    later = torch.ones(x.shape[2], x.shape[2], dtype=torch.bool, device=x.device).triu(1)
    between = total[:, :, :, None] - total[:, :, None]  # (B, H, C, C, D), above 0 where j is later: left out before exp
    faded = between.masked_fill(later[..., None], float("-inf")).exp()
    if faded.shape[-1] == 1:
        return (x @ k.mT) * faded[..., 0]
    return (x[:, :, :, None] * k[:, :, None] * faded).sum(-1)


def _after(k: Tokens, written: Tensor, total: Decay, memory: Memory) -> Memory:
    """The memory at the end of a chunk."""
    last = total[:, :, -1:]
    return last.exp().mT * memory + (k * (last - total).exp()).mT @ written
