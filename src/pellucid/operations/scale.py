"""Scale: what a part makes times a number, before it is added to the stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pellucid.operations.cell import Look, Operands, factor
from pellucid.operations.numbers import Numbers, Weights, wide
from pellucid.operations.operation import Line, Operation, Passed, Sentence, Weight
from pellucid.operations.places import Places


@dataclass(frozen=True)
class Scale(Operation):
    """y = s · x. Source: IBM Granite Team 2024 (after μP: Yang et al. 2022)."""

    kind = "scale"
    holds = Sentence("the input times a fixed number", "输入乘以一个固定的数")
    reads = ("LayerConfig.residual_scale", "LayerConfig.side", "Mamba2Config.in_scale", "AttentionConfig.in_scale")

    scale: float
    code: Line | None = None  # where it is no part's result

    def equation(self, result: str, *inputs: str) -> str:
        return rf"{result} = {self.scale:.4g} \cdot {inputs[0]}"

    def line(self, name: str) -> Line:
        if name == "side_in":
            return Line("model.side", "Side.forward", f'"{name}"')
        if self.code is not None:
            return self.code
        made = name.replace("_out", "_proj")
        return Line(
            "model.decoder",
            f"Layer.{'attend' if name.startswith('attn') else 'think'}",
            f'"{made}", {"o" if name.startswith("attn") else "y"}) *',
        )

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return self.scale * inputs[0]

    def cell(self, look: Look) -> Operands:
        (source,) = look.inputs
        made = look.step(source, look.at)
        latex = rf"{self.scale:.4g} \cdot {factor(made.value)}"
        return look.operands(
            recomputed=self.scale * made.value, leads=(made,), parts={"scale": self.scale}, latex=latex
        )

    def back(self, direction: Numbers, inputs: Sequence[Numbers], weights: Weights) -> Passed:
        return Passed((self.scale * direction,), {})


@dataclass(frozen=True)
class LearnedScale(Operation):
    """y = w · x, one learned number for all of a layer. Source: transformers models/gemma4 (layer_scalar)."""

    kind = "learned_scale"
    holds = Sentence("the input times a learned number", "输入乘以一个学到的数")
    reads = ("LayerConfig.out_scale",)

    name: str

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (Weight(self.name, (1,)),)

    def equation(self, result: str, *inputs: str) -> str:
        return rf"{result} = w \cdot {inputs[0]}"

    def line(self, name: str) -> Line:
        return Line("model.decoder", "Layer.forward", "* self.out_scale")

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return wide(weights[self.name]) * inputs[0]

    def cell(self, look: Look) -> Operands:
        (source,) = look.inputs
        made, scale = look.step(source, look.at), look.weight(self.name, (0,))
        latex = rf"{factor(scale.value)} \cdot {factor(made.value)}"
        return look.operands(recomputed=scale.value * made.value, leads=(made, scale), latex=latex)

    def back(self, direction: Numbers, inputs: Sequence[Numbers], weights: Weights) -> Passed:
        return Passed((wide(weights[self.name]) * direction,), {})
