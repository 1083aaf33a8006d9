"""Norm: a vector brought to a common scale; over a sum where it stands after one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.config import NormConfig
from pellucid.operations.operation import (
    Numbers,
    Operation,
    Places,
    Weight,
    Weights,
    by_head,
    side_by_side,
    wide,
)


@dataclass(frozen=True, kw_only=True)
class Norm(Operation):
    """``layer``: (x − μ) / √(σ² + eps) · γ + β. ``rms``: x / √(mean(x²) + eps) · γ. γ = offset + the weight.

    Over the last axis; ``heads``: over all heads of a position as one vector, each of that width. Source: Ba et al.
    2016; Zhang & Sennrich 2019.
    """

    kind = "norm"
    reads = (
        *(f"NormConfig.{name}" for name in ("kind", "eps", "bias", "offset")),
        *(f"AttentionConfig.{name}" for name in ("qk_norm", "qk_norm_over")),
    )

    name: str
    width: int
    config: NormConfig
    heads: int | None = None

    @property
    def weights(self) -> tuple[Weight, ...]:
        gamma = Weight(f"{self.name}.weight", (self.width,))
        return (gamma, Weight(f"{self.name}.bias", (self.width,))) if self.config.bias else (gamma,)

    def equation(self, result: str, *inputs: str) -> str:
        x = inputs[0] if len(inputs) == 1 else f"({' + '.join(inputs)})"
        gamma = rf"({self.config.offset:g} + \gamma)" if self.config.offset else r"\gamma"
        if self.config.kind == "rms":
            scaled = rf"{gamma} \odot \frac{{{x}}}{{\sqrt{{\operatorname{{mean}}({x}^2) + \epsilon}}}}"
        else:
            scaled = rf"{gamma} \odot \frac{{{x} - \mu}}{{\sqrt{{\sigma^2 + \epsilon}}}}"
        return f"{result} = {scaled}" + (r" + \beta" if self.config.bias else "")

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        x = sum(inputs[1:], inputs[0])
        gamma, *beta = self.scale_and_shift(weights)
        y = self.normalized(x if self.heads is None else side_by_side(x))[0] * gamma + (beta[0] if beta else 0.0)
        return y if self.heads is None else by_head(y, self.width // self.heads)

    def normalized(self, x: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """(x̂, μ, √(σ² + eps)) over the last axis; for RMSNorm μ is 0 and σ² the mean square."""
        mean = x.mean(-1, keepdims=True) if self.config.kind == "layer" else np.zeros_like(x[..., :1])
        deviation = np.sqrt(np.square(x - mean).mean(-1, keepdims=True) + self.config.eps)
        return (x - mean) / deviation, mean, deviation

    def scale_and_shift(self, weights: Weights) -> list[Numbers]:
        """γ, and β where there is one."""
        gamma, *beta = (wide(weights[weight.name]) for weight in self.weights)
        return [self.config.offset + gamma, *beta]
