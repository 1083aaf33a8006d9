"""Unit: a query or key brought to a length of 1, or of a fixed number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.operations.cell import Look, Operands, factor, number
from pellucid.operations.numbers import Numbers, Weights
from pellucid.operations.operation import Identity, Line, Operation, Sentence
from pellucid.operations.places import Places

EPS = 1e-6
UNIT_LENGTH = Identity(
    "unit_length",
    Sentence("each head's vector is of one length", "每个头的向量长度一致"),
    r"\sum_e y_e^2 = s^2 \frac{\sum_e x_e^2}{\sum_e x_e^2 + \epsilon}",
)


@dataclass(frozen=True, kw_only=True)
class Unit(Operation):
    """y = s · x / √(Σ x² + ε), ε = 10⁻⁶, over the last axis. Source: Yang et al. 2024 (Gated Delta Networks) §3.4."""

    kind = "unit"
    holds = Sentence("the vector is brought to a fixed length", "把向量缩放到固定的长度")
    identities = (UNIT_LENGTH,)
    reads = ("DeltaNetConfig.key_head_dim",)

    scale: float = 1.0

    def equation(self, result: str, *inputs: str) -> str:
        scale = "" if self.scale == 1 else rf"{self.scale:.4g} \cdot "
        return rf"{result} = {scale}\frac{{{inputs[0]}}}{{\sqrt{{\sum_e {inputs[0]}_e^2 + \epsilon}}}}"

    def line(self, name: str) -> Line:
        return Line("model.delta_net", "DeltaNet._through", f'"{name}"')

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return self.scale * inputs[0] / np.sqrt(np.square(inputs[0]).sum(-1, keepdims=True) + EPS)

    def cell(self, look: Look) -> Operands:
        (source,) = look.inputs
        x = look.row(source, *look.at[:-1])
        length, own = math.sqrt(float(np.square(x).sum()) + EPS), look.step(source, look.at)
        return look.operands(
            recomputed=self.scale * own.value / length,
            leads=(own,),
            parts={"length": length, "scale": self.scale},
            latex=rf"{self.scale:.4g} \cdot \frac{{{number(own.value)}}}{{{factor(length)}}}",
        )

    def errors(self, values: Numbers, inputs: Sequence[Numbers], weights: Weights) -> Iterator[tuple[Identity, float]]:
        square = np.square(inputs[0]).sum(-1)
        yield UNIT_LENGTH, float(np.abs(np.square(values / self.scale).sum(-1) - square / (square + EPS)).max())
