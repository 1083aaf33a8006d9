"""Route: the few experts that a token goes through, and what each counts for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.config import ExpertsConfig
from pellucid.operations.operation import Numbers, Operation, Places, Weights
from pellucid.operations.softmax import softmax


@dataclass(frozen=True, kw_only=True)
class Route(Operation):
    """Softmax of the router's scores, all but the largest set to 0; ``normalize``: divided by the sum of what is left.

    Source: Shazeer et al. 2017; Jiang et al. 2024 (Mixtral) §2.1.
    """

    kind = "route"
    reads = tuple(f"ExpertsConfig.{name}" for name in ("num_experts", "experts_per_token", "normalize"))

    config: ExpertsConfig

    def equation(self, result: str, *inputs: str) -> str:
        r, k = inputs[0], self.config.experts_per_token
        among = r"i \in S_t" if self.config.normalize else "i"
        share = rf"\frac{{\exp {r}_{{t,e}}}}{{\sum_{{{among}}} \exp {r}_{{t,i}}}}"
        chosen = rf"e \in S_t = \operatorname{{top}}_{{{k}}} {r}_t"
        return rf"{result}_{{t,e}} = {share} \;\text{{ if }}\; {chosen}, \;\text{{ else }}\; 0"

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        shares = softmax(inputs[0])
        kept = np.zeros_like(shares)
        np.put_along_axis(kept, self.chosen(inputs[0]), 1.0, -1)
        kept *= shares
        return kept / kept.sum(-1, keepdims=True) if self.config.normalize else kept

    def chosen(self, scores: Numbers) -> np.ndarray:
        """(…, k) the experts of the largest scores."""
        return np.argsort(-scores, -1, kind="stable")[..., : self.config.experts_per_token]
