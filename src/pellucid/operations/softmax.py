"""Softmax: a row of scores turned into shares that sum to 1."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.operations.cell import Cell, Look, Operands, Term, factor, number
from pellucid.operations.numbers import Numbers, Weights, wide
from pellucid.operations.operation import Identity, Line, Operation, Sentence, Weight
from pellucid.operations.places import Places

ROWS_SUM = Identity(
    "rows_sum",
    Sentence("rows of the pattern sum to 1", "每行权重之和为 1"),
    r"\sum_{j} a_{h,t,j} = 1",
)
WITH_SINK = Identity(
    "rows_sum",
    Sentence("rows of the pattern and the sink's share sum to 1", "每行权重与汇点所占之和为 1"),
    r"\sum_{j} a_{h,t,j} + a_{h,t,b} = 1",
)


@dataclass(frozen=True, kw_only=True)
class Softmax(Operation):
    """exp s_j / Σ_i exp s_i; with ``sinks``, the name of a weight, each head's own b stands among what is summed up.

    Source: Vaswani et al. 2017 §3.2.1; Xiao et al. 2023, sinks; OpenAI 2025 (gpt-oss), learned ones.
    """

    kind = "softmax"
    holds = Sentence("the pattern is softmax of the scores", "权重是得分的 softmax")
    identities = (ROWS_SUM, WITH_SINK)
    reads = ("AttentionConfig.sinks",)
    stage = ("attend.h", "GATHER[kind](")
    of_one = True

    sinks: str | None = None
    heads: int = 1

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (Weight(self.sinks, (self.heads,)),) if self.sinks else ()

    def equation(self, result: str, *inputs: str) -> str:
        s = inputs[0]
        sink = r" + \exp b_h" if self.sinks else ""
        return rf"{result}_{{h,t,j}} = \frac{{\exp {s}_{{h,t,j}}}}{{\sum_{{i}} \exp {s}_{{h,t,i}}{sink}}}"

    def line(self, name: str) -> Line:
        return Line("model.attend", "explicit", '"pattern"')

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return softmax(inputs[0]) if self.sinks is None else self._with_sinks(inputs[0], weights)[..., :-1]

    def _with_sinks(self, scores: Numbers, weights: Weights) -> Numbers:
        """Shares of the keys and, at the end of each row, of the sink."""
        assert self.sinks is not None
        beside = np.broadcast_to(wide(weights[self.sinks])[:, None, None], (*scores.shape[:-1], 1))
        return softmax(np.concatenate((scores, beside), -1))

    def cell(self, look: Look) -> Operands:
        (source,), (*before, key) = look.inputs, look.at
        sink = look.weight(self.sinks, (look.at[1],)) if self.sinks else None
        return look.operands(**share_of(look, source, look.row(source, *before), key, sink=sink))

    def errors(self, values: Numbers, inputs: Sequence[Numbers], weights: Weights) -> Iterator[tuple[Identity, float]]:
        if self.sinks is None:
            yield ROWS_SUM, float(np.abs(values.sum(-1) - 1).max())
        else:
            sink = self._with_sinks(inputs[0], weights)[..., -1]
            yield WITH_SINK, float(np.abs(values.sum(-1) + sink - 1).max())


def softmax(x: Numbers) -> Numbers:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def share_of(
    look: Look, source: str, row: Numbers, index: int, among: Numbers | None = None, sink: Cell | None = None
) -> dict[str, Any]:
    """One number's share of the exponentials of a row (of some numbers of it, ``among``), as operands. ``sink``: one
    more number that has a share.
    """
    before, largest = look.at[:-1], max(float(row.max()), -math.inf if sink is None else sink.value)
    seen = np.flatnonzero(np.isfinite(row)) if among is None else among
    powers = np.exp(row[seen] - largest)
    extra = [] if sink is None else [Term(math.exp(sink.value - largest), (sink,))]
    total, own = float(powers.sum()) + sum(term.value for term in extra), math.exp(row[index] - largest)
    terms = look.sum(powers, lambda i: (look.step(source, (*before, int(seen[i])), float(row[seen[i]])),), *extra)
    return {
        "recomputed": own / total,
        "of": terms,
        "leads": (look.step(source, look.at, row[index]),),
        "parts": {"max": largest, "sum": total, "numerator": own, "logsumexp": largest + math.log(total)},
        "latex": rf"\frac{{\exp({number(float(row[index]))} - {factor(largest)})}}{{{terms.latex}}}",
    }
