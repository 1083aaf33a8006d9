"""Scores: how well each query matches each key that it may see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.operations.cell import Look, Operands, number
from pellucid.operations.numbers import Numbers, Weights, capped, capped_latex, share, wide
from pellucid.operations.operation import Line, Operation, Sentence
from pellucid.operations.places import Places


@dataclass(frozen=True, kw_only=True)
class Scores(Operation):
    """scale · q·k, capped, and −∞ where a key must not be seen: after the query, ``window`` or more before it, in
    another ``chunk``, padding.

    ``groups`` query heads share a key-value head. ``slopes``: what each head's scores lose a place of distance.
    Source: Vaswani et al. 2017 §3.2; Ainslie et al. 2023 (groups); Press et al. 2022 (ALiBi).
    """

    kind = "scores"
    holds = Sentence("scores are scaled q · k, masked", "得分为缩放并遮蔽后的 q · k")
    stage = ("attend.h", "GATHER[kind](")
    reads = (
        *(f"AttentionConfig.{name}" for name in ("num_heads", "num_kv_heads", "head_dim", "scale", "softcap")),
        *("AttentionConfig.window", "AttentionConfig.chunk", "AttentionConfig.alibi"),
        *(f"LatentAttentionConfig.{name}" for name in ("scale", "window")),
    )

    scale: float
    groups: int = 1
    softcap: float | None = None
    window: int | None = None
    chunk: int | None = None
    slopes: tuple[float, ...] = ()

    def equation(self, result: str, *inputs: str) -> str:
        q, k = inputs
        dot = capped_latex(rf"{self.scale:.4g}\, {q}_{{h,t}} \cdot {k}_{{{share(self.groups)},j}}", self.softcap)
        dot += r" - m_h\, (t - j)" if self.slopes else ""
        seen = r"j \le t" if self.window is None else rf"t - {self.window} < j \le t"
        if self.chunk is not None:
            seen += rf", \lfloor j / {self.chunk} \rfloor = \lfloor t / {self.chunk} \rfloor"
        return rf"{result}_{{h,t,j}} = {dot} \;\text{{ if }}\; {seen}, \;\text{{ else }}\; -\infty"

    def line(self, name: str) -> Line:
        return Line("model.attend", "explicit", "config.softmax_scale")

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        q, k = inputs  # (…, H, t, E), (…, K, T, E)
        dots = q @ np.swapaxes(np.repeat(k, self.groups, -3), -1, -2) * self.scale
        scores = capped(dots, self.softcap)
        if self.slopes:
            scores = scores - wide(self.slopes)[:, None, None] * self._distances(places)
        return np.where(self.visible(places), scores, -np.inf)

    def _distances(self, places: Places) -> np.ndarray:
        """(t, T): how far each key is before each query."""
        return places.columns[:, None] - np.arange(places.token_ids.shape[-1])

    def visible(self, places: Places) -> np.ndarray:
        """(t, T), or (…, 1, t, T) where there is padding: which place may look at which. Each sees itself."""
        distance = self._distances(places)
        near = (distance >= 0) & (distance < (self.window or distance.size + 1))
        if self.chunk is not None:
            chunks = places.positions // self.chunk
            same = chunks[..., places.columns, None] == chunks[..., None, :]
            near = near & (same[..., None, :, :] if same.ndim > 2 else same)
        return near if places.mask is None else near & (places.mask[..., None, None, :] | (distance == 0))

    def cell(self, look: Look) -> Operands:
        (queries, keys), (text, head, column, key) = look.inputs, look.at
        shared = head // self.groups
        q, k = look.row(queries, text, head, column), look.row(keys, text, shared, key)
        products = q * k
        terms = look.sum(
            products,
            lambda e: (
                look.step(queries, (text, head, column, e), q[e]),
                look.step(keys, (text, shared, key, e), k[e]),
            ),
        )
        dot, masked = float(products.sum()), self._why_masked(look, key)
        score, lost = float(capped(wide(dot * self.scale), self.softcap)), 0.0
        if self.slopes:
            lost = self.slopes[head] * (look.place - key)
            score -= lost
        scaled = rf"{self.scale:.4g} \cdot \left({terms.latex}\right)"
        latex = scaled if self.softcap is None else capped_latex(number(dot * self.scale), self.softcap)
        parts = {"dot": dot, "scale": self.scale, "unmasked": score}
        if self.slopes:
            latex += rf" - {self.slopes[head]:.4g} \cdot {look.place - key}"
            parts |= {"slope": self.slopes[head], "lost": lost}
        return look.operands(
            recomputed=-math.inf if masked else score,
            of=terms,
            parts=parts if self.softcap is None else parts | {"softcap": self.softcap},
            masked=masked,
            latex=r"-\infty" if masked else latex,
        )

    def _why_masked(self, look: Look, key: int) -> str | None:
        if key > look.place:
            return "later"
        if self.window is not None and look.place - key >= self.window:
            return "window"
        if self.chunk is not None:
            own, other = (look.run.number("position_ids", look.text, place) for place in (look.place, key))
            if own // self.chunk != other // self.chunk:
                return "chunk"
        return "padding" if key != look.place and not look.run.number("mask", look.text, key) else None
