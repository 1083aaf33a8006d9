"""A trace checks what it shows: every step recomputed from the recorded inputs, and what must hold beside.

What can be checked is what the operation of each step says of itself. A step that was edited
is not checked, nor one whose inputs were not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pellucid.explain.recompute import ModelWeights, inputs_of, recompute, values, wide
from pellucid.explain.record import Record
from pellucid.operations import OPERATIONS, Tap
from pellucid.operations.numbers import Numbers
from pellucid.operations.operation import Identity, Sentence

FAST = Identity(
    "fast",
    Sentence("logits equal the fast path's", "与快速路径的 logits 一致"),
    r"\ell = \ell_{\text{fast}}",
)
# Identity → what it says. Those named like an operation say that a step is what its equation makes of its inputs.
IDENTITIES: dict[str, Sentence] = {
    name: says
    for operation in OPERATIONS
    for name, says in (
        *((identity.name, identity.says) for identity in operation.identities),
        (operation.kind, operation.holds),
    )
} | {FAST.name: FAST.says}


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
        return IDENTITIES[self.identity].en

    @property
    def title_zh(self) -> str:
        return IDENTITIES[self.identity].zh

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
            lines.append(f"{IDENTITIES[identity].en:<40} {len(same):>5}  {worst.error:>11.1e}  {worst.name}{verdict}")
        return "\n".join(lines)


@torch.no_grad()
def check(trace: Record) -> Checks:
    """Every identity of the model whose numbers were recorded."""
    return Checks(_checks(trace))


def _checks(trace: Record) -> Iterator[Check]:
    for path in trace:
        tap, tolerance = trace.tap(path), trace.tolerance(path)
        if path in trace.edited or not all(source in trace for source in tap.inputs):
            continue
        yield from _beside(trace, tap, tolerance)
        columns = _sample(trace, tap.operation.rows_checked)
        error = difference(values(trace, path, columns), recompute(trace, path, columns))
        yield Check(path, tap.kind, tap.latex, error, tolerance, len(columns))
    if "logits" in trace and "logits" not in trace.edited and (fast := trace.fast_logits()) is not None:
        real = trace.mask[:, trace.positions]
        error = difference(wide(fast[real]), wide(trace["logits"][real]))
        yield Check("logits", FAST.name, FAST.formula, error, trace.tolerance("logits"), len(trace.positions))


def _beside(trace: Record, tap: Tap, tolerance: float) -> Iterator[Check]:
    """What must hold of a step at every position, beside its equation."""
    if not tap.operation.identities:
        return
    everywhere = np.arange(len(trace.positions))
    recorded, inputs = values(trace, tap.path, everywhere), inputs_of(trace, tap.path, everywhere)
    for identity, error in tap.operation.errors(recorded, inputs, ModelWeights(trace.model)):
        yield Check(tap.path, identity.name, identity.formula, error, tolerance, len(everywhere))


def _sample(trace: Record, most: int) -> np.ndarray:
    """Indices into the kept positions: all, or ``most`` of them evenly, the first and the last included."""
    count = len(trace.positions)
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).round().astype(int)


def difference(recorded: Numbers, recomputed: Numbers) -> float:
    """The largest difference, as a share of the largest value; −∞ must meet −∞."""
    masked = np.isneginf(recorded)
    if not np.array_equal(masked, np.isneginf(recomputed)):
        return float("inf")
    gap = np.abs(np.where(masked, 0.0, recorded) - np.where(masked, 0.0, recomputed)).max()
    scale = np.abs(np.where(masked, 0.0, recomputed)).max()
    return float(gap / scale) if scale > 0 else float(gap)
