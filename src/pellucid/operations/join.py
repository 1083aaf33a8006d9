"""Join: two parts of each head's vector side by side, of which all heads share the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.operations import cell as cells
from pellucid.operations.cell import Look, Operands, Term, number
from pellucid.operations.numbers import Numbers, Weights
from pellucid.operations.operation import Line, Operation, Sentence
from pellucid.operations.places import Places


@dataclass(frozen=True, kw_only=True)
class Join(Operation):
    """[a; b_h] for every head h: the ``shared`` numbers of a, then the head's own. Source: DeepSeek-AI 2024 §2.1.3."""

    kind = "join"
    holds = Sentence("two vectors side by side", "两个向量并排")
    reads = ("LatentAttentionConfig.qk_rope_head_dim", "LatentAttentionConfig.qk_nope_head_dim")

    shared: int

    def equation(self, result: str, *inputs: str) -> str:
        a, b = inputs
        return rf"{result}_{{h}} = [{a}; {b}_{{h}}]"

    def line(self, name: str) -> Line:
        return Line("model.latent", "LatentAttention.mix", f'"{name}"')

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        a, b = inputs  # (…, 1, T, R), (…, H, T, N)
        return np.concatenate((np.broadcast_to(a, (*b.shape[:-1], a.shape[-1])), b), -1)

    def cell(self, look: Look) -> Operands:
        (a, b), (text, head, column, e) = look.inputs, look.at
        own = e >= self.shared
        cell = look.step(b, (text, head, column, e - self.shared)) if own else look.step(a, (text, 0, column, e))
        return look.operands(
            recomputed=cell.value, of=cells.Sum((Term(cell.value, (cell,)),)), latex=number(cell.value)
        )
