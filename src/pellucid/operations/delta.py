"""The gated delta rule: what each token writes into a head's memory, and what it reads there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.operations.cell import Look, Operands, factor, number
from pellucid.operations.numbers import Numbers, Weights, share
from pellucid.operations.operation import Line, Operation, Sentence
from pellucid.operations.places import Places

READS = tuple(f"DeltaNetConfig.{name}" for name in ("num_heads", "num_key_heads", "key_head_dim", "value_head_dim"))


@dataclass(frozen=True, kw_only=True)
class _OfMemory(Operation):
    """``groups`` heads share a query and a key; ``by_channel``: each number of a key has a decay of its own."""

    groups: int = 1
    by_channel: bool = False

    def _met(self, x: str, k: str) -> str:
        """How well x matches the key of place j, as it has faded since: LaTeX."""
        faded = r"e^{g_{j+1} + \dots + g_t}"
        at = share(self.groups)
        if self.by_channel:
            return rf"({x}_{{{at},t}} \odot {faded}) \cdot {k}_{{{at},j}}"
        return rf"{faded}\, {x}_{{{at},t}} \cdot {k}_{{{at},j}}"

    def decays(self, decay: Numbers, places: Places) -> Numbers:
        """(…, H, T, 1) or (…, H, T, E): ln α; 0 at padding."""
        if not self.by_channel:
            decay = np.swapaxes(decay, -1, -2)[..., None]  # (…, T, H) before
        return decay if places.mask is None else decay * places.mask[..., None, :, None]

    def matches(self, look: Look, x: str, k: str, decay: str, last: int) -> Numbers:
        """How well the text's x at its place matches each key up to ``last``, as it has faded since."""
        text, head = look.text, look.at[1]
        asked = look.row(x, text, head // self.groups, look.column(x))
        keys = look.row(k, text, head // self.groups, slice(0, last + 1))  # (j, E)
        stop = look.place + 1
        if self.by_channel:
            faded = look.row(decay, text, head, slice(0, stop))
        else:
            faded = look.row(decay, text, slice(0, stop), head)[:, None]
        real = np.array([look.run.number("mask", text, place) for place in range(stop)], bool)
        total = np.where(real[:, None], faded, 0.0).cumsum(0)
        return (keys * np.exp(total[-1] - total[: last + 1]) * asked).sum(-1)


@dataclass(frozen=True, kw_only=True)
class Write(_OfMemory):
    """w_t = β_t (v_t − S'_tᵀ k_t), S'_t the memory faded, Σ_{j<t} e^{g_{j+1} + … + g_t} k_j w_jᵀ; 0 at padding.

    Source: Widrow & Hoff 1960; Schlag et al. 2021; Yang et al. 2024 (Gated Delta Networks).
    """

    kind = "write"
    holds = Sentence("a token writes what the memory lacks", "词元写入记忆中尚缺的内容")
    reads = READS
    whole = True

    def equation(self, result: str, *inputs: str) -> str:
        k, v = inputs[:2]
        total = rf"\sum_{{j<t}} {self._met(k, k)}\; {result}_{{h,j}}"
        return rf"{result}_{{h,t}} = \beta_t \left({v}_{{h,t}} - {total}\right)"

    def line(self, name: str) -> Line:
        return Line("model.delta_rule", "writes", "wrong = beta_")

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        k, v, decay, beta = inputs
        k, decay = np.repeat(k, self.groups, -3), np.exp(self.decays(decay, places))
        beta = np.swapaxes(beta if places.mask is None else beta * places.mask[..., None], -1, -2)  # (…, H, T)
        memory, made = np.zeros((*v.shape[:-2], k.shape[-1], v.shape[-1])), np.zeros_like(v)
        for t in range(v.shape[-2]):
            memory = memory * decay[..., t, :, None]
            wrong = v[..., t, :] - (memory * k[..., t, :, None]).sum(-2)
            made[..., t, :] = beta[..., t, None] * wrong
            memory = memory + k[..., t, :, None] * made[..., t, None, :]
        return made[..., places.columns, :]

    def cell(self, look: Look) -> Operands:
        (k, values, decay, beta), (text, head, column, e) = look.inputs, look.at
        own, part = look.step(values, look.at), look.step(beta, (text, column, head))
        real = bool(look.run.number("mask", text, look.place))
        if not real or look.place == 0:
            recomputed = part.value * own.value if real else 0.0
            latex = rf"{number(part.value)} \cdot {factor(own.value)}" if real else "0"
            return look.operands(recomputed=recomputed, leads=(own, part), latex=latex)
        shares = self.matches(look, k, k, decay, look.place - 1)
        written = look.row(look.path, text, head, slice(0, look.place), e)
        terms = look.sum(shares * written, lambda j: (look.step(look.path, (text, head, j, e), written[j]),))
        recalled = float((shares * written).sum())
        return look.operands(
            recomputed=part.value * (own.value - recalled),
            of=terms,
            leads=(own, part),
            parts={"beta": part.value, "recalled": recalled},
            latex=rf"{number(part.value)} \cdot ({number(own.value)} - {factor(recalled)})",
        )


@dataclass(frozen=True, kw_only=True)
class Read(_OfMemory):
    """z_t = S_tᵀ q_t = Σ_{j≤t} e^{g_{j+1} + … + g_t} (q_t · k_j) w_j: attention without a softmax, to what was written.

    Source: Katharopoulos et al. 2020 (linear attention).
    """

    kind = "read"
    holds = Sentence("the memory's answer to the query", "记忆对查询的回答")
    reads = READS
    whole = True
    part = "head"

    def equation(self, result: str, *inputs: str) -> str:
        q, k, w = inputs[:3]
        return rf"{result}_{{h,t}} = \sum_{{j \le t}} {self._met(q, k)}\; {w}_{{h,j}}"

    def line(self, name: str) -> Line:
        return Line("model.delta_rule", "reads", "made.append(")

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        q, k, written, decay = inputs
        q, k = (np.repeat(x, self.groups, -3) for x in (q, k))
        decay = np.exp(self.decays(decay, places))
        memory, made = np.zeros((*written.shape[:-2], k.shape[-1], written.shape[-1])), np.zeros_like(written)
        for t in range(written.shape[-2]):
            memory = memory * decay[..., t, :, None] + k[..., t, :, None] * written[..., t, None, :]
            made[..., t, :] = (memory * q[..., t, :, None]).sum(-2)
        return made[..., places.columns, :]

    def cell(self, look: Look) -> Operands:
        (q, k, written, decay), (text, head, _, e) = look.inputs, look.at
        shares = self.matches(look, q, k, decay, look.place)
        values = look.row(written, text, head, slice(0, look.place + 1), e)
        terms = look.sum(shares * values, lambda j: (look.step(written, (text, head, j, e), values[j]),))
        return look.operands(recomputed=float((shares * values).sum()), of=terms, latex=terms.latex)

    def shares(self, value: Numbers, direction: Numbers) -> Numbers:
        """(H,) of each head."""
        return np.sum(value * direction, -1)
