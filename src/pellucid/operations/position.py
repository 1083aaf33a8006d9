"""Position: sines and cosines of a token's place, a vector that is added to its embedding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.operations.cell import Look, Operands, number
from pellucid.operations.numbers import Numbers, Weights, wide
from pellucid.operations.operation import Line, Operation, Sentence
from pellucid.operations.places import Places


@dataclass(frozen=True, kw_only=True)
class Position(Operation):
    """p_{t, 2i} = sin(t / 10000^(2i/D)), p_{t, 2i+1} = cos of the same. Source: Vaswani et al. 2017 §3.5."""

    kind = "position"
    holds = Sentence("the table is its formula", "位置编码符合公式")
    reads = ("ModelConfig.d_model",)
    part = "position"
    stage = ("forward.c.in", "numbers(m, POS_EMBED)")

    width: int

    def equation(self, result: str, *inputs: str) -> str:
        turn = rf"\frac{{t}}{{10000^{{2i/{self.width}}}}}"
        return rf"{result}_{{t,2i}} = \sin {turn}, \quad {result}_{{t,2i+1}} = \cos {turn}"

    def line(self, name: str) -> Line:
        return Line("model.position", "sinusoidal_table", "angle =")

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        dimension = np.arange(self.width)
        stretch = 10000 ** (wide(dimension - dimension % 2) / self.width)
        angle = wide(places.positions[..., places.columns, None]) / stretch
        return np.where(dimension % 2 == 0, np.sin(angle), np.cos(angle))

    def cell(self, look: Look) -> Operands:
        token, dimension = look.token("position_ids"), look.at[-1]
        position, even = int(token.value), dimension - dimension % 2
        angle = position / 10000 ** (even / self.width)
        name, value = ("sin", math.sin(angle)) if dimension % 2 == 0 else ("cos", math.cos(angle))
        turn = rf"\frac{{{position}}}{{10000^{{{even}/{self.width}}}}}"
        return look.operands(
            recomputed=value,
            leads=(token,),
            parts={"angle": angle},
            latex=rf"\{name}\left({turn}\right) = \{name} {number(angle)}",
        )
