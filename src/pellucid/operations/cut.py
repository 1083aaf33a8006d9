"""Cut: a layer's part of a long vector that holds the parts of all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pellucid.operations import cell as cells
from pellucid.operations.cell import Look, Operands, Term, number
from pellucid.operations.numbers import Numbers, Weights
from pellucid.operations.operation import Line, Operation, Sentence
from pellucid.operations.places import Places


@dataclass(frozen=True, kw_only=True)
class Cut(Operation):
    """y = x_{start : start + width}."""

    kind = "cut"
    holds = Sentence("a part of a longer vector", "较长向量中的一段")
    reads = ("LayerConfig.side", "SideConfig.width")

    start: int
    width: int

    def equation(self, result: str, *inputs: str) -> str:
        return rf"{result}_j = {inputs[0]}_{{{self.start} + j}}"

    def line(self, name: str) -> Line:
        return Line("model.side", "Side.forward", f'"{name}"')

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return inputs[0][..., self.start : self.start + self.width]

    def cell(self, look: Look) -> Operands:
        (source,), (text, _, j) = look.inputs, look.at
        cell = look.step(source, (text, look.column(source), self.start + j))
        return look.operands(
            recomputed=cell.value, of=cells.Sum((Term(cell.value, (cell,)),)), latex=number(cell.value)
        )
