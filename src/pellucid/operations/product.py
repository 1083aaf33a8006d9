"""Product: two vectors multiplied number by number; one of them opens a gate for the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pellucid.operations.cell import Look, Operands, factor, number
from pellucid.operations.numbers import Numbers, Weights, wide
from pellucid.operations.operation import Line, Operation, Passed, Sentence
from pellucid.operations.places import Places

Gate = Literal["identity", "sigmoid", "silu"]
GATES = {
    "identity": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
}
LATEX = {"identity": "{}", "sigmoid": r"\sigma({})", "silu": r"\operatorname{{silu}}({})"}


@dataclass(frozen=True, kw_only=True)
class Product(Operation):
    """y = f(g) ⊙ x: ``gate`` is f. Source: Hochreiter & Schmidhuber 1997 (gates)."""

    kind = "product"
    holds = Sentence("the gate times what it lets through", "门与所放行的内容逐个相乘")
    reads = ("AttentionConfig.gated", "DeltaNetConfig.gate", "DeltaNetConfig.gate_rank")

    gate: Gate = "identity"
    code: Line

    def equation(self, result: str, *inputs: str) -> str:
        return rf"{result} = {LATEX[self.gate].format(inputs[0])} \odot {inputs[1]}"

    def line(self, name: str) -> Line:
        return self.code

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return opened(self.gate, inputs[0]) * inputs[1]

    def cell(self, look: Look) -> Operands:
        gate, value = (look.step(path, self._place(look, path)) for path in look.inputs)
        share = float(opened(self.gate, wide(gate.value)))
        return look.operands(
            recomputed=share * value.value,
            leads=(value, gate),
            parts={"gate": share},
            latex=rf"{LATEX[self.gate].format(number(gate.value))} \cdot {factor(value.value)}",
        )

    @staticmethod
    def _place(look: Look, path: str) -> tuple[int, ...]:
        """The same cell of an input: its position may stand elsewhere on the input's axis."""
        return (*look.at[:-2], look.column(path), look.at[-1])

    def back(self, direction: Numbers, inputs: Sequence[Numbers], weights: Weights) -> Passed:
        """With the gate held as it is."""
        return Passed((None, direction * opened(self.gate, inputs[0])), {})


def opened(gate: Gate, g: Numbers) -> Numbers:
    """How far the numbers open a gate."""
    with np.errstate(over="ignore"):  # exp of a large number is infinite, and what is divided by it 0
        return GATES[gate](g)
