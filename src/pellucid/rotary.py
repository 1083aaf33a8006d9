"""Rotary positions: what a scaling makes of the frequencies. One source for all executors: it works on NumPy arrays and
on tensors alike.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np

from pellucid.config import RopeConfig, RopeScaling

Numbers = TypeVar("Numbers", bound=Any)  # an array or a tensor of float32


def scaled(rope: RopeConfig, plain: Numbers, pair: Numbers) -> Numbers:
    """``plain`` frequencies, radians a position of each rotated pair, as the scaling has them; ``pair`` counts the
    pairs, 0, 1, …, as floats.

    Not for scalings by the request's length, nor for factors that a file gives. Source: see ``RopeScaling``; formulas
    as in transformers' modeling_rope_utils.
    """
    scaling = rope.scaling
    if scaling is None:
        return plain
    match scaling.kind:
        case "linear":
            return plain / scaling.factor
        case "llama3":
            return _llama3(plain, scaling)
        case "yarn":
            return _yarn(rope, scaling, plain, pair)
    raise AssertionError(f"{scaling.kind} is not a scaling of frequencies alone")


def _llama3(plain: Numbers, scaling: RopeScaling) -> Numbers:
    """Wavelengths beyond the original context are divided by the factor, short ones kept, a ramp between, or a step."""
    assert scaling.original_context_len is not None
    turns: Any = scaling.original_context_len * plain / (2 * math.pi)  # over the original context
    low, ramp = scaling.low_freq_factor, scaling.high_freq_factor - scaling.low_freq_factor
    keep = ((turns - low) / ramp).clip(0, 1) if ramp else (turns >= low) * 1.0
    return (1 - keep) * plain / scaling.factor + keep * plain


def _yarn(rope: RopeConfig, scaling: RopeScaling, plain: Numbers, pair: Numbers) -> Numbers:
    """Pairs that turn often are kept, those that turn seldom interpolated, a ramp over dimensions between. Peng et al.
    2023.
    """
    assert scaling.original_context_len is not None
    original = scaling.original_context_len

    def dimension(turns: float) -> float:
        return rope.dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
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

    def its(weight: float) -> float:
        return 0.1 * weight * math.log(scaling.factor) + 1.0

    if scaling.mscale and scaling.mscale_all_dim:
        return its(scaling.mscale) / its(scaling.mscale_all_dim)
    return its(1.0)


def frequencies(rope: RopeConfig, lengths: np.ndarray | None = None) -> np.ndarray:
    """Radians a position for each rotated pair, float32, (pairs,); (…, pairs) for ``lengths`` (…), where the scaling
    depends on how long a request has become.

    Source: Su et al. 2021, eq. 15; for scalings see ``RopeScaling``.
    """
    exponent = np.arange(0, rope.dim, 2, dtype=np.float32) / np.float32(rope.dim)
    plain = np.float32(1) / np.power(np.float32(rope.theta), exponent, dtype=np.float32)
    if rope.pairs is not None:
        plain[rope.pairs :] = 0
    scaling = rope.scaling
    if scaling is None:
        return plain
    if scaling.kind == "factors":
        return (plain / np.array(scaling.short_factors, np.float32)).astype(np.float32)
    if not scaling.by_length:
        return scaled(rope, plain, np.arange(rope.dim // 2, dtype=np.float32)).astype(np.float32)
    assert lengths is not None
    assert scaling.original_context_len is not None
    original, length = scaling.original_context_len, lengths[..., None]
    if scaling.kind == "longrope":
        short, long = (np.array(factors, np.float32) for factors in (scaling.short_factors, scaling.long_factors))
        return (plain / np.where(length > original, long, short)).astype(np.float32)
    # Dynamic NTK: θ · stretch^(dim / (dim − 2)), stretch 1 up to the original length.
    stretch = scaling.factor * np.maximum(length, original) / original - (scaling.factor - 1)
    log_theta = math.log(rope.theta) + np.log(stretch) * (rope.dim / (rope.dim - 2))
    return np.exp(-log_theta * exponent).astype(np.float32)
