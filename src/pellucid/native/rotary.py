"""Rotary frequencies in numpy, as they go into the parameters file."""

from __future__ import annotations

import numpy as np

from pellucid.config import RopeConfig
from pellucid.rotary import scaled


def frequencies(rope: RopeConfig) -> np.ndarray:
    """Radians a position for each rotated pair, float32, (dim / 2,). Source: Su et al. 2021, eq. 15; for scalings see
    ``RopeScaling``.

    ``longrope`` has two rows, (2, dim / 2): for requests up to the original length, and beyond it. ``dynamic``: those
    up to the original length; beyond it the program computes them.
    """
    exponent = np.arange(0, rope.dim, 2, dtype=np.float32) / np.float32(rope.dim)
    plain = np.float32(1) / np.power(np.float32(rope.theta), exponent, dtype=np.float32)
    scaling = rope.scaling
    if scaling is None or scaling.kind == "dynamic":
        return plain
    if scaling.kind == "factors":
        return (plain / np.array(scaling.short_factors, np.float32)).astype(np.float32)
    if scaling.kind == "longrope":
        return (plain / np.array([scaling.short_factors, scaling.long_factors], np.float32)).astype(np.float32)
    return scaled(rope, plain, np.arange(rope.dim // 2, dtype=np.float32)).astype(np.float32)
