"""Normalization: LayerNorm and RMSNorm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.config import NormConfig


class LayerNorm(nn.Module):
    """(x − μ) / √(σ² + eps) · γ + β, over the last axis. Source: Ba, Kiros & Hinton 2016."""

    def __init__(self, width: int, config: NormConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if config.bias else None

    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """x / √(mean(x²) + eps) · γ, over the last axis, computed in float32. Source: Zhang & Sennrich 2019."""

    def __init__(self, width: int, config: NormConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        wide = x.float()
        return (wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


def make_norm(width: int, config: NormConfig) -> LayerNorm | RMSNorm:
    return LayerNorm(width, config) if config.kind == "layer" else RMSNorm(width, config)
