"""Grow: queries times a number that grows with their position, so that attention stays sharp in long texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.config import QueryScale
from pellucid.operations.cell import Look, Operands, factor, number
from pellucid.operations.numbers import Numbers, Weights, wide
from pellucid.operations.operation import Line, Operation, Sentence
from pellucid.operations.places import Places


@dataclass(frozen=True)
class Grow(Operation):
    """q · (1 + beta · ln(1 + ⌊(t + offset) / every⌋)). Source: Meta AI 2025 (Llama 4); Nakanishi 2025."""

    kind = "grow"
    holds = Sentence("the query times a number that grows with its position", "查询乘以随位置增大的数")
    reads = (
        "AttentionConfig.query_scale",
        "LatentAttentionConfig.query_scale",
        *(f"QueryScale.{name}" for name in ("beta", "every", "offset")),
    )

    scale: QueryScale

    def equation(self, result: str, *inputs: str) -> str:
        place = "t" if not self.scale.offset else f"t + {self.scale.offset}"
        turns = rf"\lfloor ({place}) / {self.scale.every} \rfloor"
        return rf"{result} = {inputs[0]} \cdot (1 + {self.scale.beta:g} \log (1 + {turns}))"

    def line(self, name: str) -> Line:
        return Line("model.position", "query_growth", "torch.log(")

    def _factor(self, positions: Numbers) -> Numbers:
        return 1 + self.scale.beta * np.log(1 + np.floor((positions + self.scale.offset) / self.scale.every))

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        factors = self._factor(wide(places.positions[..., places.columns]))  # (…, t)
        return inputs[0] * factors[..., None, :, None]  # (…, H, t, E)

    def cell(self, look: Look) -> Operands:
        (source,) = look.inputs
        query, token = look.step(source, look.at), look.token("position_ids")
        times = float(self._factor(wide(token.value)))
        return look.operands(
            recomputed=query.value * times,
            leads=(query, token),
            parts={"scale": times},
            latex=rf"{factor(query.value)} \cdot {number(times)}",
        )
