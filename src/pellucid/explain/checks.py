"""A trace checks what it shows: every step recomputed from the recorded inputs, and what must hold beside.

What can be checked follows from the model's own description: its taps say how each is computed. A step that was edited
is not checked, nor one whose inputs were not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.explain.recompute import norm_of, recompute, values, wide, without_scale_and_shift
from pellucid.operations import Tap

if TYPE_CHECKING:
    from pellucid.explain.trace import Trace

# Identity -> (what it says, 中文). Those named like a tap's kind say that the step is what its equation makes of its
# inputs.
IDENTITIES: dict[str, tuple[str, str]] = {
    "lookup": ("the row is the table's", "取出的就是表中那一行"),
    "position": ("the table is its formula", "位置编码符合公式"),
    "copy": ("handed on unchanged", "原样传递"),
    "sum": ("the stream is the sum of its parts", "残差流等于各部分之和"),
    "normalized": ("mean 0 and deviation 1 before γ and β", "乘 γ 加 β 之前，均值为 0、标准差为 1"),
    "unit_rms": ("root mean square 1 before γ", "乘 γ 之前，均方根为 1"),
    "norm": ("the norm's output is γ ⊙ x̂ + β", "归一化的输出为 γ ⊙ x̂ + β"),
    "linear": ("the output is x Wᵀ + b", "输出为 x Wᵀ + b"),
    "rotate": ("pairs are turned by their angle", "成对旋转相应的角度"),
    "scores": ("scores are scaled q · k, masked", "得分为缩放并遮蔽后的 q · k"),
    "softmax": ("the pattern is softmax of the scores", "权重是得分的 softmax"),
    "rows_sum": ("rows of the pattern sum to 1", "每行权重之和为 1"),
    "mix": ("z = pattern @ v", "z = 权重 @ v"),
    "activation": ("neurons are the activation's output", "神经元等于激活函数的输出"),
    "route": ("weights are softmax of the best scores", "权重是最高几个得分的 softmax"),
    "chosen": ("each token has its number of experts", "每个词元都分到规定数目的专家"),
    "experts_sum": ("weights of the experts sum to 1", "各专家的权重之和为 1"),
    "experts": ("y is the experts' weighted sum", "y 是各专家输出的加权和"),
    "fast": ("logits equal the fast path's", "与快速路径的 logits 一致"),
}
FORMULAS = {
    "normalized": r"\operatorname{mean}(\hat x) = 0, \quad \operatorname{mean}(\hat x^2) = \frac{\sigma^2}{\sigma^2 + \epsilon}",
    "unit_rms": r"\operatorname{mean}(\hat x^2) = \frac{\operatorname{mean}(x^2)}{\operatorname{mean}(x^2) + \epsilon}",
    "rows_sum": r"\sum_{j} a_{h,t,j} = 1",
    "chosen": r"\sum_{e} [w_{t,e} > 0] = k",
    "experts_sum": r"\sum_{e} w_{t,e} = 1",
    "fast": r"\ell = \ell_{\text{fast}}",
}
# Of the largest value. Rounding alone gives about 1e-6 in float32, 1e-3 in float16, 1e-2 in bfloat16.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}
# Positions of each text that are recomputed: a linear map costs a pass over its weights for each.
SAMPLED = {"linear": 8, "experts": 8}
SAMPLED_ELSE = 32


@dataclass(frozen=True)
class Check:
    """One identity of one step: ``error`` is the largest difference, as a share of the largest value."""

    name: str  # the step: layers.3.z
    identity: str  # a key of IDENTITIES
    formula: str  # LaTeX
    error: float
    tolerance: float
    positions: int  # how many were compared

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance

    @property
    def title(self) -> str:
        return IDENTITIES[self.identity][0]

    @property
    def title_zh(self) -> str:
        return IDENTITIES[self.identity][1]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "identity": self.identity,
            "title": {"en": self.title, "zh": self.title_zh},
            "formula": self.formula,
            "error": self.error,
            "tolerance": self.tolerance,
            "positions": self.positions,
            "ok": self.ok,
        }


class Checks(tuple[Check, ...]):
    """All checks of a trace; printed, one line an identity with its worst error."""

    __slots__ = ()

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self)

    @property
    def failed(self) -> list[Check]:
        return [check for check in self if not check.ok]

    def worst(self) -> list[Check]:
        """For each identity, the check that came out worst."""
        return [max(same, key=lambda check: check.error / check.tolerance) for same in self.by_identity().values()]

    def by_identity(self) -> dict[str, list[Check]]:
        grouped: dict[str, list[Check]] = {}
        for check in self:
            grouped.setdefault(check.identity, []).append(check)
        return {identity: grouped[identity] for identity in IDENTITIES if identity in grouped}

    def __str__(self) -> str:
        lines = [f"{'identity':<40} {'steps':>5}  {'worst error':>11}  at"]
        for identity, same in self.by_identity().items():
            worst = max(same, key=lambda check: check.error / check.tolerance)
            verdict = "" if worst.ok else f"  FAILS (at most {worst.tolerance:.0e})"
            lines.append(f"{IDENTITIES[identity][0]:<40} {len(same):>5}  {worst.error:>11.1e}  {worst.name}{verdict}")
        return "\n".join(lines)


@torch.no_grad()
def check(trace: Trace) -> Checks:
    """Every identity of the model whose numbers were recorded."""
    return Checks(_checks(trace))


def _checks(trace: Trace) -> Iterator[Check]:
    for path in trace:
        tap, tolerance = trace.tap(path), trace.tolerance(path)
        if path in trace.edited or not all(source in trace for source in tap.inputs):
            continue
        if tap.kind == "norm":
            yield _normalized(trace, tap, tolerance)
        columns = _sample(trace, SAMPLED.get(tap.kind, SAMPLED_ELSE))
        error = difference(values(trace, path, columns), recompute(trace, path, columns))
        yield Check(path, tap.kind, tap.latex, error, tolerance, len(columns))
        if tap.kind == "softmax":
            sums = wide(trace[path]).sum(-1)
            yield Check(
                path, "rows_sum", FORMULAS["rows_sum"], float((sums - 1).abs().max()), tolerance, len(trace.positions)
            )
        if tap.kind == "route" and (experts := trace.config.layers[tap.layer or 0].experts):
            weights, count = wide(trace[path]), len(trace.positions)
            amiss = (weights > 0).sum(-1) - experts.experts_per_token
            yield Check(path, "chosen", FORMULAS["chosen"], float(amiss.abs().max()), tolerance, count)
            if experts.normalize:
                yield Check(
                    path,
                    "experts_sum",
                    FORMULAS["experts_sum"],
                    float((weights.sum(-1) - 1).abs().max()),
                    tolerance,
                    count,
                )
    if "logits" in trace and "logits" not in trace.edited and (fast := trace.fast_logits()) is not None:
        real = trace.mask[:, trace.positions]
        yield Check(
            "logits",
            "fast",
            FORMULAS["fast"],
            difference(fast[real], wide(trace["logits"][real])),
            trace.tolerance("logits"),
            len(trace.positions),
        )


def _normalized(trace: Trace, tap: Tap, tolerance: float) -> Check:
    columns, config = _sample(trace, SAMPLED_ELSE), norm_of(trace, tap.path)
    x = sum((values(trace, source, columns) for source in tap.inputs[1:]), values(trace, tap.inputs[0], columns))
    exact, hat = wide(x), wide(without_scale_and_shift(x, config))
    if config.kind == "rms":
        power = exact.square().mean(-1)
        return Check(
            tap.path,
            "unit_rms",
            FORMULAS["unit_rms"],
            _largest(hat.square().mean(-1) - power / (power + config.eps)),
            tolerance,
            len(columns),
        )
    variance = exact.var(-1, correction=0)
    error = max(_largest(hat.mean(-1)), _largest(hat.square().mean(-1) - variance / (variance + config.eps)))
    return Check(tap.path, "normalized", FORMULAS["normalized"], error, tolerance, len(columns))


def _sample(trace: Trace, most: int) -> Tensor:
    """Indices into the kept positions: all, or ``most`` of them evenly, the first and the last included."""
    count = len(trace.positions)
    if count <= most:
        return torch.arange(count, device=trace.model.device)
    return torch.linspace(0, count - 1, most, device=trace.model.device).round().long()


def difference(recorded: Tensor, recomputed: Tensor) -> float:
    """The largest difference, as a share of the largest value; −∞ must meet −∞."""
    recorded = wide(recorded)
    masked = recorded == -torch.inf
    if not torch.equal(masked, recomputed == -torch.inf):
        return float("inf")
    gap = (recorded - recomputed).abs().masked_fill_(masked, 0.0).max()
    scale = recomputed.abs().masked_fill(masked, 0.0).max()
    return float(gap / scale) if scale > 0 else float(gap)


def _largest(x: Tensor) -> float:
    return float(x.abs().max())
