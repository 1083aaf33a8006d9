"""Scan: a state that each token lets fade, by a number of its own, and adds to; what is read off it is the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.operations.cell import Look, Operands, Term
from pellucid.operations.numbers import Numbers, Weights, wide
from pellucid.operations.operation import Line, Operation, Sentence, Weight
from pellucid.operations.places import Places


@dataclass(frozen=True, kw_only=True)
class Scan(Operation):
    """h_t = exp(Δ_t A) ⊙ h_{t−1} + Δ_t B_t x_t, y_t = C_t · h_t + D x_t, A = −exp(A_log); from h = 0 before the text.

    The state is not needed to say what y is: y_t = Σ_{j ≤ t} [C_t · (exp(A Σ_{j<i≤t} Δ_i) ⊙ B_j)] Δ_j x_j + D x_t, a
    weight for each token so far, as attention has. ``head_dim``: channels are heads, each of one Δ and one A, and B
    and C are ``groups`` that heads share; y is by head. None: each channel has a Δ, and an A for each number of its
    state.
    Source: Gu & Dao 2023; Dao & Gu 2024.
    """

    kind = "scan"
    holds = Sentence("y is what C reads off the state, and D x", "y 等于 C 从状态中读出的内容加上 D x")
    reads = (
        *(f"MambaConfig.{name}" for name in ("channels", "state_size")),
        *(f"Mamba2Config.{name}" for name in ("num_heads", "head_dim", "state_size", "num_groups")),
    )
    whole = True
    rows_checked = 8

    name: str  # layers.3.ssm
    rows: int  # heads, or channels
    state_size: int
    head_dim: int | None = None
    groups: int = 1

    @property
    def part(self) -> str:  # type: ignore[override]
        return "head" if self.head_dim else "scan"

    @property
    def weights(self) -> tuple[Weight, ...]:
        a = (self.rows,) if self.head_dim else (self.rows, self.state_size)
        return Weight(f"{self.name}.A_log", a), Weight(f"{self.name}.D", (self.rows,))

    def equation(self, result: str, *inputs: str) -> str:
        x, dt, b, c = inputs
        state = rf"h_t = \exp({dt}_t A)\, h_{{t-1}} + {dt}_t {b}_t {x}_t, \quad A = -\exp A_{{\text{{log}}}}"
        return rf"{result}_t = {c}_t \cdot h_t + D {x}_t, \quad {state}"

    def line(self, name: str) -> Line:
        if self.head_dim:
            return Line("model.scan", "by_head", "y = ")
        return Line("model.scan", "by_channel", "states = ")

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        x, dt, b, c = self._alike(inputs)
        a, d = self._parameters(weights)
        state = np.zeros((*x.shape[:-3], *x.shape[-2:], self.state_size))  # (…, H, P, N)
        wanted: dict[int, Numbers] = {}
        for t in range(x.shape[-3]):
            step = dt[..., t, :, None]  # (…, H, 1)
            added = (step * x[..., t, :, :])[..., None] * b[..., t, :, None, :]
            state = np.exp(step * a)[..., None, :] * state + added
            if t in places.columns:
                wanted[t] = (state * c[..., t, :, None, :]).sum(-1) + d[:, None] * x[..., t, :, :]
        y = np.stack([wanted[t] for t in places.columns.tolist()], -3)  # (…, t, H, P)
        return np.swapaxes(y, -2, -3) if self.head_dim else y[..., 0]

    def _alike(self, inputs: Sequence[Numbers]) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """x (…, T, H, P), Δ (…, T, H), B and C (…, T, H, N): a channel is a head of one number."""
        x, dt, b, c = inputs
        x = x.reshape(*x.shape[:-1], self.rows, -1)
        shared = (part.reshape(*part.shape[:-1], self.groups, self.state_size) for part in (b, c))
        b, c = (np.repeat(part, self.rows // self.groups, -2) for part in shared)
        return x, dt, b, c

    def _parameters(self, weights: Weights) -> tuple[Numbers, Numbers]:
        """A (H, 1) or (H, N), D (H,)."""
        a, d = (wide(weights[weight.name]) for weight in self.weights)
        return -np.exp(a if a.ndim == 2 else a[:, None]), d

    def cell(self, look: Look) -> Operands:
        """A term a token so far: its weight times what it has; and D x."""
        (xs, dts, bs, cs), text = look.inputs, look.text
        row = look.at[1] if self.head_dim else look.at[-1]
        channel = row * self.head_dim + look.at[-1] if self.head_dim else row
        last = look.column(xs)
        x = look.row(xs, text, slice(last + 1), channel)
        dt = look.row(dts, text, slice(last + 1), row)
        first = row // (self.rows // self.groups) * self.state_size
        group = slice(first, first + self.state_size)
        b, c = look.row(bs, text, slice(last + 1), group), look.row(cs, text, last, group)
        a = -np.exp(look.run.weight_row(self.weights[0].name, row))  # a number, or one a number of the state
        since = np.cumsum(dt[::-1])[::-1] - dt  # Σ over the tokens after each
        fades = np.exp(since[:, None] * a)  # (T, 1) or (T, N)
        shares = (fades * b * c).sum(-1) * dt
        skip, own = look.weight(self.weights[1].name, (row,)), look.step(xs, (text, last, channel), x[last])
        terms = look.sum(
            shares * x,
            lambda j: (look.step(xs, (text, j, channel), x[j]), look.step(dts, (text, j, row), dt[j])),
            Term(skip.value * own.value, (skip, own)),
        )
        return look.operands(
            recomputed=float((shares * x).sum()) + skip.value * own.value,
            of=terms,
            parts={"skip": skip.value * own.value},
            latex=" + ".join(f"({term.value:.4g})" for term in terms.terms[:3]),
        )

    def shares(self, value: Numbers, direction: Numbers) -> Numbers:
        """(H,) of each head; of channels, one for all."""
        return np.sum(value * direction, -1)
