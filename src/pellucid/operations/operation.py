"""What an operation is: one of the few kinds of arithmetic that every model is made of, each said in one file.

An operation's file says all that anybody must know about it: its equation, which fields of the description it reads,
its float64 reference in numpy, the operands of one cell, what must hold of its result, how a contribution passes through
it, and the line of code that computes it. Whoever shows, checks or runs a model asks the operation and never its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from pellucid.config import RopeConfig
from pellucid.rotary import frequencies, magnitude

Numbers = np.ndarray  # float64
Weights = Mapping[str, Any]  # name → an array, or what gives rows of one when it is indexed
PART = 2**23  # numbers of a weight in float64 at a time


class Weight(NamedTuple):
    """A weight that takes part in a step."""

    name: str
    shape: tuple[int, ...]


class Line(NamedTuple):
    """A line of the torch executor's code: the first of a function that contains ``part``."""

    module: str  # model.attention
    function: str  # Attention.forward
    part: str


@dataclass(frozen=True)
class Places:
    """Texts, and the places in them at which values are computed. Shapes: T tokens, t places, … texts or nothing."""

    token_ids: np.ndarray  # (…, T)
    positions: np.ndarray  # (…, T) the place of each token in its own text
    columns: np.ndarray  # (t,) among the T
    mask: np.ndarray | None = None  # (…, T) True for tokens, False for padding
    turned: Mapping[RopeConfig, tuple[Numbers, Numbers]] = field(default_factory=dict)  # an executor's own cos and sin

    @classmethod
    def whole(cls, token_ids: Any, positions: Any = None, mask: Any = None) -> Places:
        """Every place of a text, (T,), or of several, (B, T)."""
        ids = np.asarray(token_ids)
        places = np.arange(ids.shape[-1]) if positions is None else np.asarray(positions)
        seen = None if mask is None else np.asarray(mask, bool)
        return cls(ids, np.broadcast_to(places, ids.shape), np.arange(ids.shape[-1]), seen)

    def turns(self, rope: RopeConfig) -> tuple[Numbers, Numbers]:
        """cos and sin of each rotated pair's angle at the places, (…, t, pairs).

        Frequencies and angles are rounded to float32, as in every implementation: at far positions that rounding is
        part of the model. Where the scaling depends on a text's length, that is the length of the whole text.
        """
        if rope in self.turned:
            return self.turned[rope]
        radians = frequencies(rope, self._lengths if rope.scaling and rope.scaling.by_length else None)
        angles = self.positions[..., self.columns, None].astype(np.float32) * radians
        return np.cos(wide(angles)) * magnitude(rope), np.sin(wide(angles)) * magnitude(rope)

    @cached_property
    def _lengths(self) -> np.ndarray:
        """(…, 1) of each text."""
        return self.positions.max(-1, keepdims=True) + 1


class Operation:
    """A step's arithmetic with its parameters. Subclasses are frozen dataclasses; ``weights`` are those it uses."""

    kind: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ()  # fields of the description: "NormConfig.eps"

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def equation(self, result: str, *inputs: str) -> str:
        """LaTeX, with the symbols of the step and of what it is computed from."""
        raise NotImplementedError

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        """The step's values, float64, at ``places``; keys and values among ``inputs`` are whole."""
        raise NotImplementedError


def wide(values: Any) -> Numbers:
    return np.asarray(values, np.float64)


def capped(values: Numbers, cap: float | None) -> Numbers:
    """cap · tanh(x / cap); x where there is no cap."""
    return values if cap is None else cap * np.tanh(values / cap)


def capped_latex(latex: str, cap: float | None) -> str:
    return latex if cap is None else rf"{cap:g} \tanh\left(\frac{{{latex}}}{{{cap:g}}}\right)"


def by_head(values: Numbers, head_dim: int) -> Numbers:
    """(…, T, H·E) → (…, H, T, E)."""
    return np.swapaxes(values.reshape(*values.shape[:-1], -1, head_dim), -2, -3)


def side_by_side(values: Numbers) -> Numbers:
    """(…, H, T, E) → (…, T, H·E)."""
    turned = np.swapaxes(values, -2, -3)
    return turned.reshape(*turned.shape[:-2], -1)


def share(groups: int) -> str:
    """The key-value head of query head h, in LaTeX."""
    return "h" if groups == 1 else rf"\lfloor h/{groups} \rfloor"
