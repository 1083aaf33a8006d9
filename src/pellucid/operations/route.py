"""Route: the few experts that a token goes through, and what each counts for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.config import ExpertsConfig
from pellucid.operations.cell import Look, Operands
from pellucid.operations.numbers import Numbers, Weights
from pellucid.operations.operation import Identity, Line, Operation, Sentence
from pellucid.operations.places import Places
from pellucid.operations.softmax import share_of, softmax

CHOSEN = Identity(
    "chosen",
    Sentence("each token has its number of experts", "每个词元都分到规定数目的专家"),
    r"\sum_{e} [w_{t,e} > 0] = k",
)
EXPERTS_SUM = Identity(
    "experts_sum",
    Sentence("weights of the experts sum to 1", "各专家的权重之和为 1"),
    r"\sum_{e} w_{t,e} = 1",
)


@dataclass(frozen=True, kw_only=True)
class Route(Operation):
    """Softmax of the router's scores, all but the largest set to 0; ``normalize``: divided by the sum of what is left.

    Source: Shazeer et al. 2017; Jiang et al. 2024 (Mixtral) §2.1.
    """

    kind = "route"
    holds = Sentence("weights are softmax of the best scores", "权重是最高几个得分的 softmax")
    identities = (CHOSEN, EXPERTS_SUM)
    reads = tuple(f"ExpertsConfig.{name}" for name in ("num_experts", "experts_per_token", "normalize"))

    config: ExpertsConfig

    def equation(self, result: str, *inputs: str) -> str:
        r, k = inputs[0], self.config.experts_per_token
        among = r"i \in S_t" if self.config.normalize else "i"
        share = rf"\frac{{\exp {r}_{{t,e}}}}{{\sum_{{{among}}} \exp {r}_{{t,i}}}}"
        chosen = rf"e \in S_t = \operatorname{{top}}_{{{k}}} {r}_t"
        return rf"{result}_{{t,e}} = {share} \;\text{{ if }}\; {chosen}, \;\text{{ else }}\; 0"

    def line(self, name: str) -> Line:
        return Line("model.moe", "MoE.route", "chosen =")

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return self._weights(inputs[0], self.chosen(inputs[0]))

    def again(self, values: Numbers, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return self._weights(inputs[0], self.chosen(inputs[0], values))

    def _weights(self, scores: Numbers, chosen: np.ndarray) -> Numbers:
        kept = np.zeros_like(scores)
        np.put_along_axis(kept, chosen, 1.0, -1)
        kept *= softmax(scores)
        return kept / kept.sum(-1, keepdims=True) if self.config.normalize else kept

    def chosen(self, scores: Numbers, recorded: Numbers | None = None) -> np.ndarray:
        """(…, k) the experts of the largest scores; of equal ones the first, or those that a run chose."""
        others = np.zeros_like(scores) if recorded is None else recorded == 0
        return np.lexsort((others, -scores), axis=-1)[..., : self.config.experts_per_token]

    def cell(self, look: Look) -> Operands:
        (source,), (*before, e) = look.inputs, look.at
        row = look.row(source, *before)
        chosen = self.chosen(row, look.row(look.path, *before))
        if e in chosen:
            return look.operands(**share_of(look, source, row, e, chosen if self.config.normalize else None))
        lead, least = look.step(source, look.at, row[e]), float(row[chosen].min())
        return look.operands(recomputed=0.0, leads=(lead,), parts={"least": least}, latex="0")

    def errors(self, values: Numbers, inputs: Sequence[Numbers], weights: Weights) -> Iterator[tuple[Identity, float]]:
        yield CHOSEN, float(np.abs((values > 0).sum(-1) - self.config.experts_per_token).max())
        if self.config.normalize:
            yield EXPERTS_SUM, float(np.abs(values.sum(-1) - 1).max())
