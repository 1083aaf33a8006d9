"""Arrays of float64, as the references compute with, and the few things that several operations do to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Numbers = np.ndarray  # float64
Weights = Mapping[str, Any]  # name → an array, or what gives rows of one when it is indexed


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
