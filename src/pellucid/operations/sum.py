"""Sum: the residual stream and what a part, or two parts at once, add to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pellucid.operations.operation import Numbers, Operation, Places, Weights


@dataclass(frozen=True)
class Sum(Operation):
    """y = x + o, or x + o + y."""

    kind = "sum"

    def equation(self, result: str, *inputs: str) -> str:
        return f"{result} = {' + '.join(inputs)}"

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return sum(inputs[1:], inputs[0])
