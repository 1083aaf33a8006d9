"""Sum: the residual stream and what a part, or two parts at once, add to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pellucid.operations import cell as cells
from pellucid.operations.cell import Look, Operands, Term, by_size, factor
from pellucid.operations.numbers import Numbers, Weights
from pellucid.operations.operation import Line, Operation, Passed, Sentence
from pellucid.operations.places import Places

# Where the model puts together what has no module of its own: what a step reads, and the stream.
LINES = {
    "v": ("model.attention", "Attention._keys_and_values"),
    "attn_in": ("model.attention", "Attention.forward"),
    "mlp_in": ("model.mlp", "MLP.forward"),
    "final": ("model.decoder", "Decoder.hidden"),
}


@dataclass(frozen=True)
class Sum(Operation):
    """y = x + o, or x + o + y."""

    kind = "sum"
    reads = ("ModelConfig.wide_stream",)
    holds = Sentence("the stream is the sum of its parts", "残差流等于各部分之和")

    parallel: bool = False  # of two parts that read the same stream
    mixed: bool = False  # what is added is the mixer's

    def equation(self, result: str, *inputs: str) -> str:
        return f"{result} = {' + '.join(inputs)}"

    def line(self, name: str) -> Line:
        if name == "side_sum":
            return Line("model.side", "Side.forward", f'"{name}"')
        if name in ("resid_mlp", "resid_unscaled"):
            return Line("model.decoder", "Layer.forward", f'"{name}"')
        if self.mixed:
            return Line("model.decoder", "Layer.forward", "x + self.attend(self.read(")
        if name == "resid_post":
            return Line("model.decoder", "Layer.forward", "+ self.think(" if self.parallel else "x + self.think(")
        return Line(*LINES.get(name, ("model.decoder", "Layer.forward")), f'"{name}"')

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return sum(inputs[1:], inputs[0])

    def cell(self, look: Look) -> Operands:
        added = [look.step(path, look.at) for path in look.inputs]
        return look.operands(
            recomputed=sum(cell.value for cell in added),
            of=cells.Sum(by_size([Term(cell.value, (cell,)) for cell in added])),
            latex=" + ".join(factor(cell.value) for cell in added),
        )

    def back(self, direction: Numbers, inputs: Sequence[Numbers], weights: Weights) -> Passed:
        return Passed((direction,) * len(inputs), {})
