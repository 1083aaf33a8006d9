"""Softmax: a row of scores turned into shares that sum to 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.operations.operation import Numbers, Operation, Places, Weights


@dataclass(frozen=True)
class Softmax(Operation):
    """exp s_j / Σ_i exp s_i."""

    kind = "softmax"

    def equation(self, result: str, *inputs: str) -> str:
        s = inputs[0]
        return rf"{result}_{{h,t,j}} = \frac{{\exp {s}_{{h,t,j}}}}{{\sum_{{i}} \exp {s}_{{h,t,i}}}}"

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return softmax(inputs[0])


def softmax(x: Numbers) -> Numbers:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
