"""Mix: the values of the positions attended to, in the shares of the pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.operations.operation import Numbers, Operation, Places, Weights, share


@dataclass(frozen=True, kw_only=True)
class Mix(Operation):
    """z = a v, by head; ``groups`` query heads share a value head."""

    kind = "mix"
    reads = ("AttentionConfig.num_heads", "AttentionConfig.num_kv_heads")

    groups: int = 1

    def equation(self, result: str, *inputs: str) -> str:
        a, v = inputs
        return rf"{result}_{{h,t}} = \sum_{{j}} {a}_{{h,t,j}}\, {v}_{{{share(self.groups)},j}}"

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        pattern, v = inputs  # (…, H, t, T), (…, K, T, E)
        return pattern @ np.repeat(v, self.groups, -3)
