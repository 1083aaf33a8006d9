"""Where a number stops being finite in the native executor: in a weight, else in the first tap of a step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import NotFiniteError
from pellucid.config import ModelConfig, weight_shapes
from pellucid.quant import dequantize


def in_weights(config: ModelConfig, weights: Mapping[str, Array]) -> NotFiniteError | None:
    """The first weight, in the order of computation, that holds a NaN or an infinity."""
    for name in weight_shapes(config):
        if name in weights and (place := _first(dequantize(weights[name]))):
            return NotFiniteError(
                "a weight is not finite",
                where=f"{name}: {place}, {weights[name].dtype}",
                remedy="the file is damaged, or training diverged",
            )
    return None


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
