"""Rotary frequencies in numpy: what ``model.position`` computes in torch."""

from __future__ import annotations

import math

import numpy as np

from pellucid.config import RopeConfig, RopeScaling


def frequencies(rope: RopeConfig) -> np.ndarray:
    """Radians a position for each rotated pair, float32, (dim / 2,). Source: Su et al. 2021, eq. 15; for scalings see ``RopeScaling``.

    ``longrope`` has two rows, (2, dim / 2): for requests up to the original length, and beyond it. ``dynamic``: those up to the original
    length; beyond it the program computes them.
    """
    exponent = np.arange(0, rope.dim, 2, dtype=np.float32) / np.float32(rope.dim)
    plain = np.float32(1) / np.power(np.float32(rope.theta), exponent, dtype=np.float32)
    scaling = rope.scaling
    if scaling is None:
        return plain
    match scaling.kind:
        case "linear":
            scaled = plain / scaling.factor
        case "llama3":
            scaled = _llama3(plain, scaling)
        case "yarn":
            scaled = _yarn(rope, scaling, plain)
        case "factors":
            scaled = plain / np.array(scaling.short_factors, np.float32)
        case "longrope":
            scaled = plain / np.array([scaling.short_factors, scaling.long_factors], np.float32)
        case "dynamic":
            scaled = plain
    return scaled.astype(np.float32)


def _llama3(plain: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Wavelengths beyond the original context are divided by the factor, short ones kept, a ramp between."""
    assert scaling.original_context_len is not None
    turns = scaling.original_context_len * plain / (2 * math.pi)  # over the original context
    keep = ((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clip(0, 1)
    return (1 - keep) * plain / scaling.factor + keep * plain


def _yarn(rope: RopeConfig, scaling: RopeScaling, plain: np.ndarray) -> np.ndarray:
    """Pairs that turn often are kept, those that turn seldom interpolated, a ramp over dimensions between. Peng et al. 2023."""
    original = scaling.original_context_len
    assert original is not None

    def dimension(turns: float) -> float:
        return rope.dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    pair = np.arange(rope.dim // 2, dtype=np.float32)
    keep = 1 - ((pair - low) / ((high - low) or 0.001)).clip(0, 1)
    return (1 - keep) * plain / scaling.factor + keep * plain


def magnitude(rope: RopeConfig) -> float:
    """What cos and sin are multiplied by (1 without yarn or longrope)."""
    scaling = rope.scaling
    if scaling is None or scaling.kind not in ("yarn", "longrope"):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.factor <= 1:
        return 1.0

    if scaling.kind == "longrope":
        assert scaling.original_context_len is not None
        return math.sqrt(1 + math.log(scaling.factor) / math.log(scaling.original_context_len))

    def of(weight: float) -> float:
        return 0.1 * weight * math.log(scaling.factor) + 1.0

    if scaling.mscale and scaling.mscale_all_dim:
        return of(scaling.mscale) / of(scaling.mscale_all_dim)
    return of(1.0)
