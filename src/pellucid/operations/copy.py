"""Copy: what is handed on unchanged, under another name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pellucid.operations.cell import Look, Operands
from pellucid.operations.numbers import Numbers, Weights
from pellucid.operations.operation import Line, Operation, Passed, Sentence
from pellucid.operations.places import Places
from pellucid.operations.sum import Sum


@dataclass(frozen=True)
class Copy(Operation):
    """y = x."""

    kind = "copy"
    holds = Sentence("handed on unchanged", "原样传递")

    def equation(self, result: str, *inputs: str) -> str:
        return f"{result} = {inputs[0]}"

    def line(self, name: str) -> Line:
        return Sum().line(name)

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return inputs[0]

    def cell(self, look: Look) -> Operands:
        return Sum().cell(look)

    def back(self, direction: Numbers, inputs: Sequence[Numbers], weights: Weights) -> Passed:
        return Passed((direction,), {})
