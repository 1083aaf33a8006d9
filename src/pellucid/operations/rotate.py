"""Rotate: pairs of a query's or key's numbers turned by an angle that grows with the position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.config import RopeConfig
from pellucid.operations.cell import Look, Operands, Sum, Term, by_size, factor, number
from pellucid.operations.numbers import Numbers, Weights
from pellucid.operations.operation import Line, Operation, Sentence
from pellucid.operations.places import Places


@dataclass(frozen=True, kw_only=True)
class Rotate(Operation):
    """(a, b) → (a cos tθ − b sin tθ, b cos tθ + a sin tθ) for each pair; what lies beyond ``rope.dim`` stays.

    Source: Su et al. 2021; scalings: see ``RopeScaling``.
    """

    kind = "rotate"
    holds = Sentence("pairs are turned by their angle", "成对旋转相应的角度")
    reads = (
        "AttentionConfig.rope",
        "LatentAttentionConfig.rope",
        *(f"RopeConfig.{name}" for name in ("dim", "theta", "layout", "scaling", "pairs", "wide")),
        *(f"RopeScaling.{name}" for name in ("kind", "factor", "original_context_len", "attention_factor")),
        *(f"RopeScaling.{name}" for name in ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow")),
        *(f"RopeScaling.{name}" for name in ("mscale", "mscale_all_dim", "truncate")),
        *(f"RopeScaling.{name}" for name in ("short_factors", "long_factors")),
    )

    rope: RopeConfig

    def equation(self, result: str, *inputs: str) -> str:
        name = inputs[0]
        a, b = ("j", f"j+{self.rope.dim // 2}") if self.rope.layout == "half" else ("2j", "2j+1")
        a, b = f"{name}_{{{a}}}", f"{name}_{{{b}}}"
        cos, sin = r"\cos t\theta_j", r"\sin t\theta_j"
        return rf"({a}, {b}) \mapsto ({a} {cos} - {b} {sin},\; {b} {cos} + {a} {sin})"

    def line(self, name: str) -> Line:
        return Line("model.position", "rotate", "a * cos - b * sin")

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        """Complex multiplication by e^{itθ}, of numbers a + ib."""
        x, half = inputs[0], self.rope.dim // 2
        cos, sin = (table[..., None, :, :] for table in places.turns(self.rope))  # the same for every head
        turned, rest = x[..., : self.rope.dim], x[..., self.rope.dim :]
        if self.rope.layout == "half":
            z = (turned[..., :half] + 1j * turned[..., half:]) * (cos + 1j * sin)
            return np.concatenate((z.real, z.imag, rest), -1)
        z = (turned[..., 0::2] + 1j * turned[..., 1::2]) * (cos + 1j * sin)
        pairs = np.stack((z.real, z.imag), -1)
        return np.concatenate((pairs.reshape(turned.shape), rest), -1)

    def cell(self, look: Look) -> Operands:
        (source,), (*before, e) = look.inputs, look.at
        if e >= self.rope.dim:  # the part of a head that is not rotated
            cell = look.step(source, look.at)
            return look.operands(recomputed=cell.value, of=Sum((Term(cell.value, (cell,)),)), latex=number(cell.value))
        half = self.rope.dim // 2
        if self.rope.layout == "half":
            pair, second, first, other = e % half, e >= half, e % half, e % half + half
        else:
            pair, second, first, other = e // 2, e % 2 == 1, e - e % 2, e - e % 2 + 1
        cos, sin = (float(table[pair]) for table in look.run.turns(self.rope, look.text, look.place))
        a, b = look.step(source, (*before, first)), look.step(source, (*before, other))
        own, turned, sign = (b, a, 1) if second else (a, b, -1)
        terms = by_size([Term(own.value * cos, (own,)), Term(sign * turned.value * sin, (turned,))])
        return look.operands(
            recomputed=sum(term.value for term in terms),
            of=Sum(terms),
            parts={
                "cos": cos,
                "sin": sin,
                "angle": math.atan2(sin, cos),
                "position": float(look.token("position_ids").value),
            },
            latex=rf"{factor(own.value)} \cdot {factor(cos)} {'+' if second else '-'} "
            rf"{factor(turned.value)} \cdot {factor(sin)}",
        )
