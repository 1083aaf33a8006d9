"""Rotary frequencies as they go into the parameters file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pellucid import rotary
from pellucid.config import RopeConfig


def frequencies(rope: RopeConfig) -> np.ndarray:
    """Radians a position for each rotated pair, float32, (dim / 2,): ``rotary.frequencies``.

    ``longrope`` has two rows, (2, dim / 2): for requests up to the original length, and beyond it. ``dynamic``: those
    up to the original length; beyond it the program computes them.
    """
    scaling = rope.scaling
    if scaling is None or not scaling.by_length:
        return rotary.frequencies(rope)
    if scaling.kind == "dynamic":
        return rotary.frequencies(replace(rope, scaling=None))
    assert scaling.original_context_len is not None
    return rotary.frequencies(rope, np.array([scaling.original_context_len, scaling.original_context_len + 1]))
