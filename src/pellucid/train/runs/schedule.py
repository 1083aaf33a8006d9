"""Learning rate over the steps of a run: warm-up, then cosine, warm-up–stable–decay, or constant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pellucid.base.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A factor in [0, 1] for each step; a pure function of the step, so there is no state to save.

    ``cosine``: Loshchilov & Hutter 2017. ``wsd``: constant until the last ``decay_fraction`` of the steps, then linear
    (Hu et al. 2024, MiniCPM). All rise linearly over ``warmup_steps``; the first two end at ``final_fraction``.
    """

    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    num_steps: int = 1000
    warmup_steps: int = 100
    decay_fraction: float = 0.2
    final_fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in ("cosine", "wsd", "constant"):
            raise ConfigError(f"there is no schedule {self.kind!r}", expected="cosine, wsd or constant")
        if not 0 <= self.warmup_steps <= self.num_steps:
            raise ConfigError(
                "the warm-up is longer than the run",
                expected=f"0 to {self.num_steps} steps",
                received=self.warmup_steps,
            )

    def factor(self, step: int) -> float:
        """The factor of step ``step``, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return 1.0
        start = (
            self.warmup_steps
            if self.kind == "cosine"
            else max(self.warmup_steps, round(self.num_steps * (1 - self.decay_fraction)))
        )
        if step < start:
            return 1.0
        progress = min((step - start) / max(self.num_steps - 1 - start, 1), 1.0)
        left = (1 + math.cos(math.pi * progress)) / 2 if self.kind == "cosine" else 1 - progress
        return self.final_fraction + (1 - self.final_fraction) * left
