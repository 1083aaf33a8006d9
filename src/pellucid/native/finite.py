"""Where a number stops being finite in the native executor: in a weight, else in the first tap of a step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import NotFiniteError
from pellucid.config import ModelConfig, weight_shapes
from pellucid.quant import dequantize, is_finite


def in_weights(config: ModelConfig, weights: Mapping[str, Array]) -> NotFiniteError | None:
    """The first weight, in the order of computation, that holds a NaN or an infinity."""
    return next(
        (in_weight(name, weights[name]) for name in weight_shapes(config) if not is_finite(weights[name])), None
    )


def in_weight(name: str, weight: Array) -> NotFiniteError:
    """What is to be said of a weight that holds a NaN or an infinity."""
    return NotFiniteError(
        "a weight is not finite",
        where=f"{name}: {_first(dequantize(weight))}, {weight.dtype}",
        remedy="the file is damaged, or training diverged",
    )


def in_taps(values: Mapping[str, np.ndarray]) -> NotFiniteError | None:
    """The first of a step's taps, in the order of computation, that holds one."""
    for path, value in values.items():
        if place := _first(value):
            return NotFiniteError("a value is not finite, though all weights are", where=f"{path}: {place}")
    return None


def _first(value: np.ndarray) -> str:
    """Which number it is, where, and how many there are; nothing where all are finite."""
    bad = ~np.isfinite(value)
    if not bad.any():
        return ""
    place = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{value[place]} at {place}; {int(bad.sum()):,} of {value.size:,} numbers"
