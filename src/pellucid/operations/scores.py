"""Scores: how well each query matches each key that it may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.operations.operation import Numbers, Operation, Places, Weights, capped, capped_latex, share


@dataclass(frozen=True, kw_only=True)
class Scores(Operation):
    """scale · q·k, capped, and −∞ where a key must not be seen: after the query, ``window`` or more before it, padding.

    ``groups`` query heads share a key-value head. Source: Vaswani et al. 2017 §3.2; Ainslie et al. 2023 (groups).
    """

    kind = "scores"
    reads = tuple(
        f"AttentionConfig.{name}" for name in ("num_heads", "num_kv_heads", "head_dim", "scale", "softcap", "window")
    )

    scale: float
    groups: int = 1
    softcap: float | None = None
    window: int | None = None

    def equation(self, result: str, *inputs: str) -> str:
        q, k = inputs
        dot = capped_latex(rf"{self.scale:.4g}\, {q}_{{h,t}} \cdot {k}_{{{share(self.groups)},j}}", self.softcap)
        seen = r"j \le t" if self.window is None else rf"t - {self.window} < j \le t"
        return rf"{result}_{{h,t,j}} = {dot} \;\text{{ if }}\; {seen}, \;\text{{ else }}\; -\infty"

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        q, k = inputs  # (…, H, t, E), (…, K, T, E)
        dots = q @ np.swapaxes(np.repeat(k, self.groups, -3), -1, -2) * self.scale
        return np.where(self.visible(places), capped(dots, self.softcap), -np.inf)

    def visible(self, places: Places) -> np.ndarray:
        """(t, T), or (…, 1, t, T) where there is padding: which place may look at which. Each sees itself."""
        distance = places.columns[:, None] - np.arange(places.token_ids.shape[-1])
        near = (distance >= 0) & (distance < (self.window or distance.size + 1))
        return near if places.mask is None else near & (places.mask[..., None, None, :] | (distance == 0))
