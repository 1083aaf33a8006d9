"""Two runs side by side: which steps differ, where first, and what it does to the prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pellucid.base.errors import RequestError
from pellucid.explain.recompute import wide
from pellucid.explain.record import Record


@dataclass(frozen=True)
class StepChange:
    """How far one step differs: the largest difference, and ‖b − a‖ / ‖a‖."""

    name: str
    largest: float
    relative: float


@dataclass(frozen=True)
class TokenChange:
    """A token's probability at one position in either run."""

    token: int
    piece: str
    before: float
    after: float


@dataclass(frozen=True)
class Comparison:
    """``steps`` in order of computation, those that both runs recorded in the same shape."""

    steps: list[StepChange]
    kl: list[
        list[float]
    ]  # (B, P) nats, KL(before ‖ after); the last position of each alone where the texts differ in length
    tokens: list[TokenChange]  # at the last position of the first text, the largest change first

    @property
    def unchanged(self) -> list[str]:
        """Steps that are bit for bit the same."""
        return [step.name for step in self.steps if step.largest == 0]

    @property
    def first_change(self) -> str | None:
        return next((step.name for step in self.steps if step.largest != 0), None)

    def to_json(self) -> dict[str, Any]:
        return {
            "steps": [vars(step) for step in self.steps],
            "kl": self.kl,
            "tokens": [vars(token) for token in self.tokens],
            "first_change": self.first_change,
        }

    def __str__(self) -> str:
        lines = [f"first change: {self.first_change or 'none'}; KL at the last position {self.kl[0][-1]:.4f} nats"]
        lines += [f"  {token.piece!r:<20} {token.before:8.4f} → {token.after:8.4f}" for token in self.tokens]
        return "\n".join(lines)


@torch.no_grad()
def compare(before: Record, after: Record, *, k: int = 8) -> Comparison:
    """What changed from one run to another: an edit, another prompt, another checkpoint with the same vocabulary.

    Raises: RequestError where the vocabularies differ in size; NotRecordedError where a run lacks its logits.
    """
    if before.config.vocab_size != after.config.vocab_size:
        raise RequestError(
            "the models have different vocabularies",
            expected=before.config.vocab_size,
            received=after.config.vocab_size,
        )
    steps = [
        _change(name, before, after) for name in before if name in after and before[name].shape == after[name].shape
    ]
    same_place = before["logits"].shape == after["logits"].shape
    p, q = (trace["logits"].float().log_softmax(-1).to(before.model.device) for trace in (before, after))
    p, q = (p, q) if same_place else (p[:1, -1:], q[:1, -1:])
    kl = (p.exp() * (p - q)).sum(-1).clamp(min=0)
    here, there = p[0, -1].exp(), q[0, -1].exp()
    moved = (there - here).abs().topk(min(k, len(here))).indices.tolist()
    return Comparison(
        steps, kl.tolist(), [TokenChange(i, before.piece(i), here[i].item(), there[i].item()) for i in moved]
    )


def _change(name: str, before: Record, after: Record) -> StepChange:
    a, b = wide(before[name]), wide(after[name])
    same = (a == b) | (np.isinf(a) & np.isinf(b))
    gap = np.subtract(b, a, out=np.zeros_like(a), where=~same)
    size = np.linalg.norm(np.where(np.isinf(a), 0.0, a))
    return StepChange(name, float(np.abs(gap).max()), float(np.linalg.norm(gap) / size) if size > 0 else 0.0)
