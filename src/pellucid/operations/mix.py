"""Mix: the values of the positions attended to, in the shares of the pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.operations.cell import Cell, Look, Operands
from pellucid.operations.numbers import Numbers, Weights, share
from pellucid.operations.operation import Line, Operation, Sentence
from pellucid.operations.places import Places


@dataclass(frozen=True, kw_only=True)
class Mix(Operation):
    """z = a v, by head; ``groups`` query heads share a value head."""

    kind = "mix"
    holds = Sentence("z = pattern @ v", "z = 权重 @ v")
    reads = ("AttentionConfig.num_heads", "AttentionConfig.num_kv_heads")
    part = "head"

    groups: int = 1

    def equation(self, result: str, *inputs: str) -> str:
        a, v = inputs
        return rf"{result}_{{h,t}} = \sum_{{j}} {a}_{{h,t,j}}\, {v}_{{{share(self.groups)},j}}"

    def line(self, name: str) -> Line:
        return Line("model.attend", "explicit", "pattern @ v")

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        pattern, v = inputs  # (…, H, t, T), (…, K, T, E)
        return pattern @ np.repeat(v, self.groups, -3)

    def cell(self, look: Look) -> Operands:
        (pattern, source), (text, head, column, e) = look.inputs, look.at
        shared = head // self.groups
        shares, values = look.row(pattern, text, head, column), look.row(source, text, shared, slice(None), e)
        seen = np.flatnonzero(shares)  # masked keys add nothing
        products = (shares * values)[seen]

        def cells(i: int) -> tuple[Cell, ...]:
            j = int(seen[i])
            value = look.step(source, (text, shared, j, e), values[j])
            return value, look.step(pattern, (text, head, column, j), shares[j])

        terms = look.sum(products, cells)
        return look.operands(recomputed=products.sum(), of=terms, latex=terms.latex)

    def shares(self, value: Numbers, direction: Numbers) -> Numbers:
        """(H,) of each head."""
        return np.sum(value * direction, -1)
