"""Softmax: a row of scores turned into shares that sum to 1."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.operations.cell import Look, Operands, factor, number
from pellucid.operations.numbers import Numbers, Weights
from pellucid.operations.operation import Identity, Line, Operation, Sentence
from pellucid.operations.places import Places

ROWS_SUM = Identity(
    "rows_sum",
    Sentence("rows of the pattern sum to 1", "每行权重之和为 1"),
    r"\sum_{j} a_{h,t,j} = 1",
)


@dataclass(frozen=True)
class Softmax(Operation):
    """exp s_j / Σ_i exp s_i."""

    kind = "softmax"
    holds = Sentence("the pattern is softmax of the scores", "权重是得分的 softmax")
    identities = (ROWS_SUM,)
    stage = ("stages.h", "gather_chunk(")
    of_one = True

    def equation(self, result: str, *inputs: str) -> str:
        s = inputs[0]
        return rf"{result}_{{h,t,j}} = \frac{{\exp {s}_{{h,t,j}}}}{{\sum_{{i}} \exp {s}_{{h,t,i}}}}"

    def line(self, name: str) -> Line:
        return Line("model.attend", "explicit", ".softmax(-1)")

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return softmax(inputs[0])

    def cell(self, look: Look) -> Operands:
        (source,), (*before, key) = look.inputs, look.at
        return look.operands(**share_of(look, source, look.row(source, *before), key))

    def errors(self, values: Numbers, inputs: Sequence[Numbers], weights: Weights) -> Iterator[tuple[Identity, float]]:
        yield ROWS_SUM, float(np.abs(values.sum(-1) - 1).max())


def softmax(x: Numbers) -> Numbers:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def share_of(look: Look, source: str, row: Numbers, index: int, among: Numbers | None = None) -> dict[str, Any]:
    """One number's share of the exponentials of a row (of some numbers of it, ``among``), as operands."""
    before, largest = look.at[:-1], float(row.max())
    seen = np.flatnonzero(np.isfinite(row)) if among is None else among
    powers = np.exp(row[seen] - largest)
    total, own = float(powers.sum()), math.exp(row[index] - largest)
    terms = look.sum(powers, lambda i: (look.step(source, (*before, int(seen[i])), float(row[seen[i]])),))
    return {
        "recomputed": own / total,
        "of": terms,
        "leads": (look.step(source, look.at, row[index]),),
        "parts": {"max": largest, "sum": total, "numerator": own, "logsumexp": largest + math.log(total)},
        "latex": rf"\frac{{\exp({number(float(row[index]))} - {factor(largest)})}}{{{terms.latex}}}",
    }
