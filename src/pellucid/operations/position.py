"""Position: sines and cosines of a token's place, a vector that is added to its embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.operations.operation import Numbers, Operation, Places, Weights, wide


@dataclass(frozen=True, kw_only=True)
class Position(Operation):
    """p_{t, 2i} = sin(t / 10000^(2i/D)), p_{t, 2i+1} = cos of the same. Source: Vaswani et al. 2017 §3.5."""

    kind = "position"
    reads = ("ModelConfig.d_model",)

    width: int

    def equation(self, result: str, *inputs: str) -> str:
        turn = rf"\frac{{t}}{{10000^{{2i/{self.width}}}}}"
        return rf"{result}_{{t,2i}} = \sin {turn}, \quad {result}_{{t,2i+1}} = \cos {turn}"

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        dimension = np.arange(self.width)
        angle = wide(places.positions[..., places.columns, None]) / 10000 ** (
            wide(dimension - dimension % 2) / self.width
        )
        return np.where(dimension % 2 == 0, np.sin(angle), np.cos(angle))
