"""Why a cell has its value: the numbers that its operation makes it of, each with the cell that it came from.

Every operand names its cell, so one can walk back, cell by cell, from the predicted token to the letters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pellucid.config import RopeConfig
from pellucid.operations.numbers import Numbers, Weights

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
    masked: str | None = None  # why a score is −∞: later, window, chunk, padding

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


class Recorded(Protocol):
    """A run whose cells can be looked at: a batch of texts, of which some positions were kept."""

    def row(self, path: str, *index: int | slice) -> Numbers:
        """Some of a step's recorded values, in float64."""
        ...

    def weight_row(self, name: str, *index: int) -> Numbers: ...

    def column(self, path: str, position: int) -> int:
        """Where on a step's position (or key) axis a position of the text is found."""
        ...

    def number(self, name: str, text: int, position: int) -> int:
        """Of ``token_ids``, ``position_ids`` or ``mask``."""
        ...

    def turns(self, rope: RopeConfig, text: int, position: int) -> tuple[Numbers, Numbers]:
        """cos and sin of each pair at one position, as the run had them."""
        ...

    @property
    def weights(self) -> Weights: ...


@dataclass(frozen=True)
class Sum:
    """The largest terms of a sum, and the rest of them as one number."""

    terms: tuple[Term, ...]
    rest_count: int = 0
    rest_sum: float = 0.0

    @property
    def latex(self) -> str:
        """The first terms as products of their operands."""
        shown = 3
        written = [
            r" \cdot ".join(factor(cell.value) for cell in term.cells) if len(term.cells) > 1 else factor(term.value)
            for term in self.terms[:shown]
        ]
        return " + ".join(written) + (r" + \dots" if self.rest_count or len(self.terms) > shown else "")


@dataclass(frozen=True, kw_only=True)
class Look:
    """One cell of a step being looked at: where it is, and what was recorded of the steps that it is made of."""

    run: Recorded
    path: str
    kind: str
    inputs: tuple[str, ...]
    at: Index
    value: float
    place: int  # the position in the text
    max_terms: int = 12

    @property
    def text(self) -> int:
        return self.at[0]

    def column(self, path: str) -> int:
        """The same position in another step."""
        return self.run.column(path, self.place)

    def row(self, path: str, *index: int | slice) -> Numbers:
        return self.run.row(path, *index)

    def step(self, path: str, index: Index, value: float | None = None) -> Cell:
        return Cell("step", path, index, float(self.run.row(path, *index)) if value is None else float(value))

    def weight(self, name: str, index: Index, value: float | None = None) -> Cell:
        return Cell("weight", name, index, float(self.run.weight_row(name, *index)) if value is None else float(value))

    def token(self, name: str) -> Cell:
        return Cell("token", name, (self.text, self.place), self.run.number(name, self.text, self.place))

    def sum(self, products: Numbers, cells: Callable[[int], tuple[Cell, ...]], *extra: Term) -> Sum:
        """The largest terms by size, the rest summed up."""
        kept = np.argsort(-np.abs(products), kind="stable")[: self.max_terms]
        terms = [*(Term(float(products[i]), cells(int(i))) for i in kept), *extra]
        return Sum(by_size(terms), len(products) - len(kept), float(products.sum() - products[kept].sum()))

    def operands(self, *, recomputed: float, latex: str, of: Sum | None = None, **more: Any) -> Operands:
        """The answer; ``of``: the sum that the cell is, or that stands in its equation."""
        if of is not None:
            more |= {"terms": of.terms, "rest_count": of.rest_count, "rest_sum": of.rest_sum}
        return Operands(
            name=self.path,
            index=self.at,
            kind=self.kind,
            value=self.value,
            recomputed=float(recomputed),
            latex=latex,
            **more,
        )


def by_size(terms: Sequence[Term]) -> tuple[Term, ...]:
    return tuple(sorted(terms, key=lambda term: -abs(term.value)))


def number(value: float) -> str:
    """A number in LaTeX."""
    if math.isinf(value):
        return r"\infty" if value > 0 else r"-\infty"
    mantissa, _, exponent = f"{value:.4g}".partition("e")
    return rf"{mantissa} \cdot 10^{{{int(exponent)}}}" if exponent else mantissa


def factor(value: float) -> str:
    """A number that stands after an operator: in brackets where it is negative."""
    return f"({number(value)})" if value < 0 else number(value)


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
