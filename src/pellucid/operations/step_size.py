"""Step size: how far a token moves a state-space model's state; softplus of a number, which is never negative."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.operations.cell import Look, Operands, factor, number
from pellucid.operations.numbers import Numbers, Weights, wide
from pellucid.operations.operation import Line, Operation, Sentence, Weight
from pellucid.operations.places import Places


@dataclass(frozen=True, kw_only=True)
class StepSize(Operation):
    """Δ = softplus(r + bias) = ln(1 + exp(r + bias)), between ``low`` and ``high``; 0 at padding.

    Source: Gu & Dao 2023 §3.6.
    """

    kind = "step_size"
    holds = Sentence("Δ is softplus of the map and its bias", "Δ 等于线性映射加偏置后的 softplus")
    reads = ("Mamba2Config.dt_min", "Mamba2Config.dt_max")

    name: str  # layers.3.ssm.dt_bias
    size: int
    low: float = 0.0
    high: float | None = None

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (Weight(self.name, (self.size,)),)

    @property
    def bounded(self) -> bool:
        return self.low > 0 or self.high is not None

    def equation(self, result: str, *inputs: str) -> str:
        made = rf"\operatorname{{softplus}}({inputs[0]} + b_\Delta)"
        return f"{result} = {self._bounds(made)}"

    def _bounds(self, latex: str) -> str:
        high = r"\infty" if self.high is None else number(self.high)
        return rf"\operatorname{{clip}}({latex}, {number(self.low)}, {high})" if self.bounded else latex

    def line(self, name: str) -> Line:
        return Line("model.scan", "step_sizes", "dt = softplus(")

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        made = self.made(inputs[0] + wide(weights[self.name]))
        return made if places.mask is None else made * places.mask[..., places.columns, None]

    def made(self, x: Numbers) -> Numbers:
        return np.clip(np.logaddexp(0.0, x), self.low, self.high)

    def cell(self, look: Look) -> Operands:
        (source,) = look.inputs
        read, bias = look.step(source, look.at), look.weight(self.name, look.at[-1:])
        total = read.value + bias.value
        seen = bool(look.run.number("mask", look.text, look.place))
        return look.operands(
            recomputed=float(self.made(wide(total))) if seen else 0.0,
            leads=(read, bias),
            parts={"sum": total},
            masked=None if seen else "padding",
            latex=self._bounds(rf"\ln(1 + \exp({number(read.value)} + {factor(bias.value)}))"),
        )
