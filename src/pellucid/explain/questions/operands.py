"""``operands``: any cell of any matrix, with its equation's real operands.

Every operand names the cell that it came from, so one can walk back, cell by cell, from the predicted token to the
letters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.explain.recompute import ACTIVATIONS, angles, mlp, norm_of
from pellucid.operations import Tap

if TYPE_CHECKING:
    from pellucid.explain.trace import Trace

Index = tuple[int, ...]


@dataclass(frozen=True)
class Cell:
    """One number and where it stands: in a step, in a weight, or among the token ids (where every walk back ends)."""

    source: str  # step, weight, token
    name: str
    index: Index
    value: float

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "name": self.name, "index": list(self.index), "value": _plain(self.value)}


@dataclass(frozen=True)
class Term:
    """One term of a sum: its value, the cells it is made of."""

    value: float
    cells: tuple[Cell, ...]

    def to_json(self) -> dict[str, Any]:
        return {"value": _plain(self.value), "cells": [cell.to_json() for cell in self.cells]}


@dataclass(frozen=True, kw_only=True)
class Operands:
    """Why a cell has its value.

    ``terms`` are those of the sum in its equation, the largest first; ``rest_sum`` is the sum of the ``rest_count``
    smaller ones. ``leads`` are the cells that enter beside a sum (a norm's x, γ, β; a softmax's own score; the token of
    a row). ``parts`` are numbers on the way: mu, sigma, max, sum, scale, angle. ``recomputed`` is in float64, from the
    recorded operands.
    """

    name: str
    index: Index
    kind: str
    value: float
    recomputed: float
    latex: str
    terms: tuple[Term, ...] = ()
    rest_count: int = 0
    rest_sum: float = 0.0
    leads: tuple[Cell, ...] = ()
    parts: dict[str, float] = field(default_factory=dict)
    masked: str | None = None  # why a score is −∞: later, window, padding

    @property
    def error(self) -> float:
        return 0.0 if self.value == self.recomputed else abs(self.value - self.recomputed)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Where to look next: the cells this one is made of, the heaviest first."""
        return self.leads + tuple(cell for term in self.terms for cell in term.cells)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings and lists; −∞ is null."""
        return {
            "name": self.name,
            "index": list(self.index),
            "kind": self.kind,
            "value": _plain(self.value),
            "recomputed": _plain(self.recomputed),
            "error": _plain(self.error),
            "latex": self.latex,
            "terms": [term.to_json() for term in self.terms],
            "rest_count": self.rest_count,
            "rest_sum": self.rest_sum,
            "leads": [cell.to_json() for cell in self.leads],
            "parts": {name: _plain(value) for name, value in self.parts.items()},
            "masked": self.masked,
        }


@torch.no_grad()
def operands(trace: Trace, name: str, index: Sequence[int], *, max_terms: int = 12) -> Operands:
    """The operands of ``trace[name][index]``. An index counts along the recorded tensor's axes, from the end if
    negative.

    Raises: RequestError for an index outside the tensor; NotRecordedError where an input of the step was left out of
    the trace.
    """
    tap, tensor = trace.tap(name), trace[name]
    if len(index) != tensor.ndim or any(not -size <= i < size for i, size in zip(index, tensor.shape, strict=True)):
        raise RequestError(
            "there is no such cell", where=name, expected=f"an index below {tuple(tensor.shape)}", received=tuple(index)
        )
    at = tuple(i % size for i, size in zip(index, tensor.shape, strict=True))
    found = _KINDS[tap.kind](_Looker(trace, tap, at, max_terms))
    return Operands(name=name, index=at, kind=tap.kind, value=tensor[at].item(), **found)


@dataclass(frozen=True)
class _Looker:
    """One cell being looked at."""

    trace: Trace
    tap: Tap
    at: Index
    max_terms: int

    @property
    def batch(self) -> int:
        return self.at[0]

    @property
    def place(self) -> int:
        """The position in the text."""
        column = self.at[self.tap.axes.index("position" if "position" in self.tap.axes else "key")]
        return self.trace.positions[column] if "position" in self.tap.axes else column

    def column(self, path: str) -> int:
        """The same position in another step."""
        return self.trace.column(path, self.place)

    def row(self, path: str, *index: int) -> Tensor:
        return self.trace[path][index].cpu().double()

    def step(self, path: str, index: Index, value: float | None = None) -> Cell:
        return Cell("step", path, index, self.trace[path][index].item() if value is None else value)

    def weight(self, name: str, index: Index, value: float | None = None) -> Cell:
        return Cell("weight", name, index, self.trace.weight(name)[index].item() if value is None else value)

    def sum(
        self, products: Tensor, cells: Callable[[int], tuple[Cell, ...]], extra: Sequence[Term] = ()
    ) -> dict[str, Any]:
        """The largest terms by size, the rest summed up."""
        kept = products.abs().topk(min(self.max_terms, len(products))).indices.tolist()
        terms = sorted([*(Term(products[i].item(), cells(i)) for i in kept), *extra], key=lambda term: -abs(term.value))
        return {
            "terms": tuple(terms),
            "rest_count": len(products) - len(kept),
            "rest_sum": (products.sum() - products[kept].sum()).item(),
        }


def _lookup(look: _Looker) -> dict[str, Any]:
    batch, _, dimension = look.at
    trace, weight = look.trace, look.tap.weights[0].name
    ids, scale = (
        (trace.token_ids, trace.config.embedding_scale) if look.tap.name == "embed" else (trace.position_ids, 1.0)
    )
    row = int(ids[batch, look.place])
    cell = look.weight(weight, (row, dimension))
    token = Cell("token", "token_ids" if look.tap.name == "embed" else "position_ids", (batch, look.place), row)
    symbol = "E" if look.tap.name == "embed" else "P"
    factor = "" if scale == 1.0 else rf"{scale:.4g} \cdot "
    return {
        "recomputed": cell.value * scale,
        "terms": (Term(cell.value * scale, (cell,)),),
        "leads": (token,),
        "parts": {} if scale == 1.0 else {"scale": scale},
        "latex": rf"{factor}{symbol}_{{{row},{dimension}}} = {factor}{_factor(cell.value)}",
    }


def _position(look: _Looker) -> dict[str, Any]:
    dimension, d_model = look.at[2], look.trace.config.d_model
    position = int(look.trace.position_ids[look.at[0], look.place])
    even = dimension - dimension % 2
    angle = position / 10000 ** (even / d_model)
    name = "sin" if dimension % 2 == 0 else "cos"
    return {
        "recomputed": getattr(math, name)(angle),
        "leads": (Cell("token", "position_ids", (look.at[0], look.place), position),),
        "parts": {"angle": angle},
        "latex": rf"\{name}\left(\frac{{{position}}}{{10000^{{{even}/{d_model}}}}}\right) = \{name} {_number(angle)}",
    }


def _sum(look: _Looker) -> dict[str, Any]:
    cells = [look.step(path, look.at) for path in look.tap.inputs]
    terms = sorted((Term(cell.value, (cell,)) for cell in cells), key=lambda term: -abs(term.value))
    return {
        "recomputed": sum(cell.value for cell in cells),
        "terms": tuple(terms),
        "latex": " + ".join(_factor(cell.value) for cell in cells),
    }


def _norm(look: _Looker) -> dict[str, Any]:
    config, *before, i = norm_of(look.trace, look.tap.path), *look.at
    rows = [look.row(path, *before) for path in look.tap.inputs]
    x = rows[0] if len(rows) == 1 else rows[0] + rows[1]
    mean = x.mean().item() if config.kind == "layer" else 0.0
    sigma = math.sqrt((x - mean).square().mean().item() + config.eps)
    leads = [look.step(path, look.at, row[i].item()) for path, row in zip(look.tap.inputs, rows, strict=True)]
    leads += [look.weight(weight.name, (i,)) for weight in look.tap.weights]
    gamma, beta = leads[len(rows)].value, leads[len(rows) + 1].value if len(leads) > len(rows) + 1 else None
    shifted = _number(x[i].item()) if config.kind == "rms" else f"{_number(x[i].item())} - {_factor(mean)}"
    latex = rf"{_factor(gamma)} \cdot \frac{{{shifted}}}{{{_number(sigma)}}}" + (
        "" if beta is None else f" + {_factor(beta)}"
    )
    parts = {"x": x[i].item(), "mu": mean, "sigma": sigma, "eps": config.eps, "gamma": gamma}
    return {
        "recomputed": (x[i].item() - mean) / sigma * gamma + (beta or 0.0),
        "leads": tuple(leads),
        "parts": parts if beta is None else parts | {"beta": beta},
        "latex": latex,
    }


def _linear(look: _Looker) -> dict[str, Any]:
    tap, trace = look.tap, look.trace
    (source,), weight = tap.inputs, tap.weights[0].name
    column = look.column(source)
    if trace[source].ndim == 4:  # z: the heads side by side
        width = trace[source].shape[-1]
        x = trace[source][look.batch, :, column].flatten().cpu().double()
        place: Callable[[int], Index] = lambda i: (look.batch, i // width, column, i % width)  # noqa: E731
    else:
        x = look.row(source, look.batch, column)
        place = lambda i: (look.batch, column, i)  # noqa: E731
    n = (
        look.at[-1] if len(look.at) == 3 else look.at[1] * trace[tap.path].shape[-1] + look.at[-1]
    )  # by head: rows of W in head order
    w = trace.weight(weight)[n].cpu().double()
    bias = [look.weight(tap.weights[1].name, (n,))] if len(tap.weights) > 1 else []
    products = x * w
    found = look.sum(
        products,
        lambda i: (look.step(source, place(i), x[i].item()), look.weight(weight, (n, i), w[i].item())),
        [Term(cell.value, (cell,)) for cell in bias],
    )
    total = products.sum().item() + sum(cell.value for cell in bias)
    found |= {"recomputed": total, "latex": _sum_latex(found["terms"], found["rest_count"])}
    if tap.name == "logits" and (cap := trace.config.logit_softcap) is not None:
        found |= {"recomputed": cap * math.tanh(total / cap), "parts": {"sum": total, "softcap": cap}}
        found["latex"] = rf"{cap:g} \tanh\left(\frac{{{_number(total)}}}{{{cap:g}}}\right)"
    return found


def _rotate(look: _Looker) -> dict[str, Any]:
    trace, (source,) = look.trace, look.tap.inputs
    rope = trace.config.layers[look.tap.layer or 0].mixer.rope
    assert rope
    *before, e = look.at
    if e >= rope.dim:  # the part of a head that is not rotated
        cell = look.step(source, look.at)
        return {"recomputed": cell.value, "terms": (Term(cell.value, (cell,)),), "latex": _number(cell.value)}
    half = rope.dim // 2
    pair, second = (e % half, e >= half) if rope.layout == "half" else (e // 2, e % 2 == 1)
    first, other = (pair, pair + half) if rope.layout == "half" else (2 * pair, 2 * pair + 1)
    cos, sin = (
        table[look.batch, 0, 0, pair].item()
        for table in angles(trace, rope, torch.tensor([look.place], device=trace.model.device))
    )
    a, b = look.step(source, (*before, first)), look.step(source, (*before, other))
    terms = (
        (Term(b.value * cos, (b,)), Term(a.value * sin, (a,)))
        if second
        else (Term(a.value * cos, (a,)), Term(-b.value * sin, (b,)))
    )
    x, y, sign = (b.value, a.value, "+") if second else (a.value, b.value, "-")
    return {
        "recomputed": sum(term.value for term in terms),
        "terms": tuple(sorted(terms, key=lambda term: -abs(term.value))),
        "parts": {
            "cos": cos,
            "sin": sin,
            "angle": math.atan2(sin, cos),
            "position": float(trace.position_ids[look.batch, look.place]),
        },
        "latex": rf"{_factor(x)} \cdot {_factor(cos)} {sign} {_factor(y)} \cdot {_factor(sin)}",
    }


def _scores(look: _Looker) -> dict[str, Any]:
    trace, (q_path, k_path) = look.trace, look.tap.inputs
    attention = trace.config.layers[look.tap.layer or 0].mixer
    batch, head, column, key = look.at
    kv_head = head // (attention.num_heads // attention.num_kv_heads)
    q, k = look.row(q_path, batch, head, column), look.row(k_path, batch, kv_head, key)
    found = look.sum(
        q * k,
        lambda e: (
            look.step(q_path, (batch, head, column, e), q[e].item()),
            look.step(k_path, (batch, kv_head, key, e), k[e].item()),
        ),
    )
    dot, scale, cap = (q * k).sum().item(), attention.softmax_scale, attention.softcap
    score = dot * scale if cap is None else cap * math.tanh(dot * scale / cap)
    masked = _why_masked(trace, attention.window, batch, look.place, key)
    latex = rf"{scale:.4g} \cdot \left({_sum_latex(found['terms'], found['rest_count'])}\right)"
    parts = {"dot": dot, "scale": scale, "unmasked": score} | ({} if cap is None else {"softcap": cap})
    return found | {
        "recomputed": -math.inf if masked else score,
        "parts": parts,
        "masked": masked,
        "latex": r"-\infty"
        if masked
        else latex
        if cap is None
        else rf"{cap:g} \tanh\left(\frac{{{_number(dot * scale)}}}{{{cap:g}}}\right)",
    }


def _why_masked(trace: Trace, window: int | None, batch: int, query: int, key: int) -> str | None:
    if key > query:
        return "later"
    if window is not None and query - key >= window:
        return "window"
    return "padding" if key != query and not bool(trace.mask[batch, key]) else None


def _softmax(look: _Looker) -> dict[str, Any]:
    (source,), (*before, key) = look.tap.inputs, look.at
    row = look.row(source, *before)
    largest = row.max().item()
    powers = (row - largest).exp()
    total = powers.sum().item()
    seen = torch.isfinite(row).nonzero().flatten()
    found = look.sum(powers[seen], lambda i: (look.step(source, (*before, int(seen[i])), row[seen[i]].item()),))
    return found | {
        "recomputed": powers[key].item() / total,
        "leads": (look.step(source, look.at, row[key].item()),),
        "parts": {
            "max": largest,
            "sum": total,
            "numerator": powers[key].item(),
            "logsumexp": largest + math.log(total),
        },
        "latex": rf"\frac{{\exp({_number(row[key].item())} - {_factor(largest)})}}{{{_sum_latex(found['terms'], found['rest_count'])}}}",
    }


def _mix(look: _Looker) -> dict[str, Any]:
    trace, (a_path, v_path) = look.trace, look.tap.inputs
    attention = trace.config.layers[look.tap.layer or 0].mixer
    batch, head, column, e = look.at
    kv_head = head // (attention.num_heads // attention.num_kv_heads)
    shares, values = look.row(a_path, batch, head, column), trace[v_path][batch, kv_head, :, e].cpu().double()
    seen = shares.nonzero().flatten()  # masked keys add nothing
    products = (shares * values)[seen]

    def cells(i: int) -> tuple[Cell, ...]:
        j = int(seen[i])
        return look.step(v_path, (batch, kv_head, j, e), values[j].item()), look.step(
            a_path, (batch, head, column, j), shares[j].item()
        )

    found = look.sum(products, cells)
    return found | {"recomputed": products.sum().item(), "latex": _sum_latex(found["terms"], found["rest_count"])}


def _activation(look: _Looker) -> dict[str, Any]:
    mlp = look.trace.config.layers[look.tap.layer or 0].mlp
    cells = tuple(look.step(path, look.at) for path in look.tap.inputs)
    act = ACTIVATIONS[mlp.activation](torch.tensor(cells[0].value, dtype=torch.float64)).item()
    latex = rf"\operatorname{{{mlp.activation.removesuffix('_tanh')}}}({_number(cells[0].value)})"
    if mlp.gated:
        latex += rf" \cdot {_factor(cells[1].value)} = {_number(act)} \cdot {_factor(cells[1].value)}"
    return {
        "recomputed": act * (cells[1].value if mlp.gated else 1.0),
        "leads": cells,
        "parts": {"activation": act},
        "latex": latex,
    }


def _route(look: _Looker) -> dict[str, Any]:
    (source,), (*before, e) = look.tap.inputs, look.at
    experts = look.trace.config.layers[look.tap.layer or 0].experts
    assert experts
    row = look.row(source, *before)
    chosen = row.topk(experts.experts_per_token).indices
    if e not in chosen:
        return {
            "recomputed": 0.0,
            "leads": (look.step(source, look.at, row[e].item()),),
            "parts": {"least": row[chosen].min().item()},
            "latex": "0",
        }
    among = chosen if experts.normalize else torch.arange(len(row))
    largest = row.max().item()
    powers = (row[among] - largest).exp()
    total, own = powers.sum().item(), math.exp(row[e].item() - largest)
    found = look.sum(powers, lambda i: (look.step(source, (*before, int(among[i])), row[among[i]].item()),))
    return found | {
        "recomputed": own / total,
        "leads": (look.step(source, look.at, row[e].item()),),
        "parts": {"max": largest, "sum": total, "numerator": own},
        "latex": rf"\frac{{\exp({_number(row[e].item())} - {_factor(largest)})}}{{{_sum_latex(found['terms'], found['rest_count'])}}}",
    }


def _experts(look: _Looker) -> dict[str, Any]:
    """A term an expert that counts: its weight times what it makes of the token; one for the shared expert, which has
    no weight.
    """
    trace, (x_path, w_path), at = look.trace, look.tap.inputs, f"layers.{look.tap.layer}.mlp"
    layer = trace.config.layers[look.tap.layer or 0]
    assert layer.experts
    batch, _, d = look.at
    column = look.column(x_path)
    x, weights = look.row(x_path, batch, column), look.row(w_path, batch, column)
    terms = []
    for e in weights.nonzero().flatten().tolist():
        made = mlp(trace, f"{at}.experts.{e}", layer.mlp, x.to(trace.model.device))[d].item()
        terms.append(Term(weights[e].item() * made, (look.step(w_path, (batch, column, e), weights[e].item()),)))
    if layer.experts.shared:
        made = mlp(trace, f"{at}.shared", layer.experts.shared, x.to(trace.model.device))[d].item()
        if layer.experts.shared_gated:
            made *= torch.sigmoid(x @ trace.weight(f"{at}.shared_gate.weight")[0].cpu().double()).item()
        terms.append(Term(made, ()))
    terms = sorted(terms, key=lambda term: -abs(term.value))
    return {"recomputed": sum(term.value for term in terms), "terms": tuple(terms), "latex": _sum_latex(terms, 0)}


_KINDS: dict[str, Callable[[_Looker], dict[str, Any]]] = {
    "lookup": _lookup,
    "position": _position,
    "copy": _sum,
    "sum": _sum,
    "norm": _norm,
    "linear": _linear,
    "rotate": _rotate,
    "scores": _scores,
    "softmax": _softmax,
    "mix": _mix,
    "activation": _activation,
    "route": _route,
    "experts": _experts,
}


def _sum_latex(terms: Sequence[Term], rest: int, shown: int = 3) -> str:
    """The first terms as products of their operands."""
    written = [
        r" \cdot ".join(_factor(cell.value) for cell in term.cells) if len(term.cells) > 1 else _factor(term.value)
        for term in terms[:shown]
    ]
    return " + ".join(written) + (r" + \dots" if rest or len(terms) > shown else "")


def _number(value: float) -> str:
    if math.isinf(value):
        return r"\infty" if value > 0 else r"-\infty"
    mantissa, _, exponent = f"{value:.4g}".partition("e")
    return rf"{mantissa} \cdot 10^{{{int(exponent)}}}" if exponent else mantissa


def _factor(value: float) -> str:
    """A number that stands after an operator: in brackets where it is negative."""
    return f"({_number(value)})" if value < 0 else _number(value)


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
