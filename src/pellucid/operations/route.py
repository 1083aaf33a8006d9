"""Route: the few experts that a token goes through, and what each counts for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.config import ExpertsConfig
from pellucid.operations.cell import Look, Operands, Sum, Term, by_size, factor, number
from pellucid.operations.numbers import Numbers, Weights, wide
from pellucid.operations.operation import Identity, Line, Operation, Sentence, Weight
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
SCALED_SUM = Identity(
    "experts_sum",
    Sentence("weights of the experts, without their scale, sum to 1", "除去缩放系数，各专家的权重之和为 1"),
    r"\sum_{e} w_{t,e} / c = 1",
)


@dataclass(frozen=True, kw_only=True)
class Route(Operation):
    """The scores of the best experts, all others 0; ``normalize``: divided by the sum of what is left; times a scale.

    Which are best, the description says: by logits, or by scores plus a correction bias, in the best groups alone.
    Source: see ``ExpertsConfig``.
    """

    kind = "route"
    holds = Sentence("weights are the scores of the best experts", "权重来自得分最高的几个专家")
    identities = (CHOSEN, EXPERTS_SUM, SCALED_SUM)
    reads = tuple(
        f"ExpertsConfig.{name}"
        for name in (
            *("num_experts", "experts_per_token", "scores", "correction_bias", "num_groups", "groups_per_token"),
            *("group_score", "normalize", "normalize_eps", "scale", "jitter"),
        )
    )

    config: ExpertsConfig
    name: str = ""  # layers.3.mlp

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (Weight(self._bias, (self.config.num_experts,)),) if self.config.correction_bias else ()

    @property
    def _bias(self) -> str:
        return f"{self.name}.correction_bias"

    def equation(self, result: str, *inputs: str) -> str:
        r, config = inputs[0], self.config
        scale = "" if config.scale == 1 else rf"{config.scale:.4g}\, "
        among = r"i \in S_t" if config.normalize else "i"
        eps = f" + {number(config.normalize_eps)}" if config.normalize_eps else ""
        if config.scores == "sigmoid":
            s = rf"\sigma({r}_{{t,e}})"
            share = rf"\frac{{{s}}}{{\sum_{{{among}}} \sigma({r}_{{t,i}}){eps}}}" if config.normalize else s
        elif config.scores == "sparsemixer":
            share = rf"\frac{{\exp {r}_{{t,e}}}}{{\sum_{{i \in N_{{t,e}}}} \exp {r}_{{t,i}}}}"
        else:
            share = rf"\frac{{\exp {r}_{{t,e}}}}{{\sum_{{{among}}} \exp {r}_{{t,i}}}}"
            if eps:
                s = rf"\operatorname{{softmax}}({r}_t)"
                share = rf"\frac{{{s}_e}}{{\sum_{{{among}}} {s}_i{eps}}}"
        chosen = rf"e \in S_t = \operatorname{{top}}_{{{config.experts_per_token}}} {self._rank_latex(r)}"
        if config.num_groups > 1:
            chosen += rf" \text{{ in the best }} {config.groups_per_token} \text{{ of }} {config.num_groups}"
            chosen += r" \text{ groups}"
        return rf"{result}_{{t,e}} = {scale}{share} \;\text{{ if }}\; {chosen}, \;\text{{ else }}\; 0"

    def _rank_latex(self, r: str) -> str:
        if not self.config.correction_bias:
            return f"{r}_t"
        s = rf"\sigma({r}_t)" if self.config.scores == "sigmoid" else rf"\operatorname{{softmax}}({r}_t)"
        return f"({s} + c)"

    def line(self, name: str) -> Line:
        return Line("model.moe", "MoE.route", "return torch.zeros_like")

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return self._weights(inputs[0], self.chosen(inputs[0], self._correction(weights)))

    def again(self, values: Numbers, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return self._weights(inputs[0], self.chosen(inputs[0], self._correction(weights), values))

    def _correction(self, weights: Weights) -> Numbers | float:
        return wide(weights[self._bias]) if self.config.correction_bias else 0.0

    def _scores(self, logits: Numbers) -> Numbers:
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-logits)) if self.config.scores == "sigmoid" else softmax(logits)

    def _weights(self, logits: Numbers, chosen: np.ndarray) -> Numbers:
        config = self.config
        if config.scores == "sparsemixer":
            shares = self._mixed(logits, chosen)
        else:
            shares = np.take_along_axis(self._scores(logits), chosen, -1)
            if config.normalize:
                shares = shares / (shares.sum(-1, keepdims=True) + config.normalize_eps)
        kept = np.zeros_like(logits)
        np.put_along_axis(kept, chosen, config.scale * shares, -1)
        return kept

    def _mixed(self, logits: Numbers, chosen: np.ndarray) -> Numbers:
        """(…, k) each chosen one's share of the exponentials of those left that are near it."""
        shares, left = [], logits.copy()
        for i in range(self.config.experts_per_token):
            one = chosen[..., i : i + 1]
            best = np.take_along_axis(logits, one, -1)
            near = np.where(self._near(logits, best), left, -np.inf)
            shares.append(np.take_along_axis(softmax(near), one, -1))
            np.put_along_axis(left, one, -np.inf, -1)
        return np.concatenate(shares, -1)

    def _near(self, logits: Numbers, best: Numbers) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # 0 / 0 where both are 0, and that is near
            return ~((best - logits) / np.maximum(np.abs(logits), best) > 2 * self.config.jitter)

    def chosen(self, logits: Numbers, correction: Numbers | float = 0.0, recorded: Numbers | None = None) -> np.ndarray:
        """(…, k) the experts of the largest ranks, best first; of equal ones the first, or those that a run chose."""
        config = self.config
        rank = self._ranks(logits, correction)
        if config.num_groups > 1:
            by_group = rank.reshape(*rank.shape[:-1], config.num_groups, config.group_size)
            best = np.sort(by_group, -1)[..., -(2 if config.group_score == "top2" else 1) :].sum(-1)
            others = np.zeros_like(best)
            if recorded is not None:
                others = (recorded.reshape(by_group.shape) == 0).all(-1).astype(float)
            seen = np.lexsort((others, -best), axis=-1)[..., : config.groups_per_token]
            open_ = np.zeros(best.shape, bool)
            np.put_along_axis(open_, seen, True, -1)
            rank = np.where(np.repeat(open_, config.group_size, -1), rank, -np.inf)
        others = np.zeros_like(rank) if recorded is None else recorded == 0
        return np.lexsort((others, -rank), axis=-1)[..., : config.experts_per_token]

    def _ranks(self, logits: Numbers, correction: Numbers | float) -> Numbers:
        """What experts are chosen by. Scores rise with logits, whose differences no rounding takes away."""
        config = self.config
        sums = config.num_groups > 1 and config.group_score == "top2"
        return self._scores(logits) + correction if config.correction_bias or sums else logits

    def cell(self, look: Look) -> Operands:
        (source,), (*before, e) = look.inputs, look.at
        row, config = look.row(source, *before), self.config
        correction = self._correction(look.run.weights)
        chosen = self.chosen(row, correction, look.row(look.path, *before))
        lead = (look.step(source, look.at, row[e]),)
        if config.correction_bias:
            lead += (look.weight(self._bias, (e,)),)
        if e not in chosen:
            least = {"least": float(self._ranks(row, correction)[chosen].min())}
            return look.operands(recomputed=0.0, leads=lead, parts=least, latex="0")
        if config.scores == "softmax" and not config.normalize_eps:
            made = share_of(look, source, row, e, chosen if config.normalize else None)
        elif config.scores == "sparsemixer":
            later = chosen[chosen.tolist().index(e) :]
            left = np.setdiff1d(np.arange(len(row)), np.setdiff1d(chosen, later))
            made = share_of(look, source, row, e, left[self._near(row, row[e])[left]])
        else:
            made = self._share(look, source, row, e, chosen)
        made["leads"] = lead
        if config.scale != 1:
            made["recomputed"] *= config.scale
            made["parts"] = made.get("parts", {}) | {"scale": config.scale}
            made["latex"] = rf"{config.scale:.4g} \cdot {made['latex']}"
        return look.operands(**made)

    def _share(self, look: Look, source: str, row: Numbers, e: int, chosen: np.ndarray) -> dict[str, Any]:
        """One expert's score, or its share of those of the chosen, as operands."""
        scores, before = self._scores(row), look.at[:-1]
        own, latex = float(scores[e]), number(float(scores[e]))
        if not self.config.normalize:
            return {"recomputed": own, "latex": latex, "parts": {"score": own}}
        terms = [Term(float(scores[i]), (look.step(source, (*before, i), float(row[i])),)) for i in map(int, chosen)]
        total = float(scores[chosen].sum()) + self.config.normalize_eps
        return {
            "recomputed": own / total,
            "of": Sum(by_size(terms)),
            "parts": {"score": own, "sum": total},
            "latex": rf"\frac{{{latex}}}{{{factor(total)}}}",
        }

    def errors(self, values: Numbers, inputs: Sequence[Numbers], weights: Weights) -> Iterator[tuple[Identity, float]]:
        config = self.config
        yield CHOSEN, float(np.abs((values > 0).sum(-1) - config.experts_per_token).max())
        if config.normalize and config.normalize_eps < 1e-9:
            identity = EXPERTS_SUM if config.scale == 1 else SCALED_SUM
            yield identity, float(np.abs(values.sum(-1) / config.scale - 1).max())
