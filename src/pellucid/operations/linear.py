"""Linear: every output is the product of the input with a row of a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.operations.operation import (
    PART,
    Numbers,
    Operation,
    Places,
    Weight,
    Weights,
    by_head,
    capped,
    capped_latex,
    side_by_side,
    wide,
)


@dataclass(frozen=True, kw_only=True)
class Linear(Operation):
    """x Wᵀ + b. ``head_dim``: the result is cut into heads; ``joins``: the input is heads, laid side by side.

    ``cap``: cap · tanh(· / cap) of the result, a soft cap on logits.
    """

    kind = "linear"
    reads = (
        "AttentionConfig.qkv_bias",
        "AttentionConfig.o_bias",
        "AttentionConfig.num_heads",
        "AttentionConfig.head_dim",
        "MLPConfig.d_ff",
        "MLPConfig.bias",
        "ModelConfig.tie_embeddings",
        "ModelConfig.logit_softcap",
    )

    name: str
    shape: tuple[int, int]  # (out, in)
    matrix: str  # its symbol, W_{Q}
    bias: bool = False
    head_dim: int | None = None
    joins: bool = False
    cap: float | None = None

    @property
    def weights(self) -> tuple[Weight, ...]:
        weight = Weight(f"{self.name}.weight", self.shape)
        return (weight, Weight(f"{self.name}.bias", self.shape[:1])) if self.bias else (weight,)

    def equation(self, result: str, *inputs: str) -> str:
        product = rf"{inputs[0]}\, {self.matrix}^\top"
        shift = f" + b{self.matrix.removeprefix('W')}" if self.bias else ""
        return f"{result} = {capped_latex(product + shift, self.cap)}"

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        x = side_by_side(inputs[0]) if self.joins else inputs[0]
        y = capped(product(x, *(weights[weight.name] for weight in self.weights)), self.cap)
        return y if self.head_dim is None else by_head(y, self.head_dim)


def product(x: Numbers, weight: Any, bias: Any = None) -> Numbers:
    """x Wᵀ + b, the weight in float64 a part at a time."""
    rows = max(PART // weight.shape[1], 1)
    parts = [x @ wide(weight[start : start + rows]).T for start in range(0, weight.shape[0], rows)]
    return np.concatenate(parts, -1) + (0.0 if bias is None else wide(bias))
