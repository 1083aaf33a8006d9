"""Normalization: LayerNorm and RMSNorm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.config import NormConfig


class LayerNorm(nn.Module):
    """(x − μ) / √(σ² + eps) · γ + β, over the last axis, or over each of its ``groups``. Source: Ba et al. 2016."""

    def __init__(self, width: int, config: NormConfig) -> None:
        super().__init__()
        self.eps, self.offset, self.groups = config.eps, config.offset, config.groups
        self.weight = nn.Parameter(torch.ones(width)) if config.weight else None
        self.bias = nn.Parameter(torch.zeros(width)) if config.bias else None

    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        gamma = self.weight + self.offset if self.weight is not None and self.offset else self.weight
        if self.groups > 1:
            return self._by_group(x, gamma)
        return F.layer_norm(x, x.shape[-1:], gamma, self.bias, self.eps)

    def _by_group(self, x: Float[Tensor, "*rows D"], gamma: Tensor | None) -> Float[Tensor, "*rows D"]:
        """In float32 at least, γ and β too."""
        parts = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (self.groups, -1))
        y = F.layer_norm(parts, parts.shape[-1:], None, None, self.eps).flatten(-2)
        y = y if gamma is None else y * gamma
        return (y if self.bias is None else y + self.bias).to(x.dtype)


class RMSNorm(nn.Module):
    """x / √(mean(x²) + eps) · γ (+ β), over the last axis, in float32 at least; γ = offset + weight.

    x̂ is rounded to its dtype before γ multiplies it, as Llama's code has it; ``wide``, or with an offset, after it, as
    OLMo 2's and Gemma's have. ``groups`` of the axis each by itself. Source: Zhang & Sennrich 2019.
    """

    def __init__(self, width: int, config: NormConfig) -> None:
        super().__init__()
        self.eps, self.offset, self.wide = config.eps, config.offset, config.wide or config.offset != 0
        self.groups = config.groups
        self.weight = nn.Parameter(torch.ones(width)) if config.weight else None
        self.bias = nn.Parameter(torch.zeros(width)) if config.bias else None

    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        parts = wide if self.groups == 1 else wide.unflatten(-1, (self.groups, -1))
        hat = (parts * torch.rsqrt((parts * parts).mean(-1, keepdim=True) + self.eps)).view(wide.shape)
        if self.weight is None:
            y = hat.to(x.dtype)
        elif self.wide:  # in 16 bits the sum would lose most of the weight
            y = (hat * (self.weight.to(hat.dtype) + self.offset)).to(x.dtype)
        else:
            y = hat.to(x.dtype) * self.weight
        return y if self.bias is None else y + self.bias


def make_norm(width: int, config: NormConfig) -> LayerNorm | RMSNorm:
    return LayerNorm(width, config) if config.kind == "layer" else RMSNorm(width, config)


def optional_norm(width: int, config: NormConfig | None) -> LayerNorm | RMSNorm | None:
    return None if config is None else make_norm(width, config)


def normed(norm: nn.Module | None, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
    """The norm's output; x itself where there is none."""
    return x if norm is None else norm(x)
