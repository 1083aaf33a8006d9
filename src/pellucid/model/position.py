"""Positions: the sinusoidal table that is added to embeddings, and rotary embedding of queries and keys."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.config import QueryScale, RopeConfig
from pellucid.rotary import magnitude, scaled


def sinusoidal_table(length: int, d_model: int) -> Float[Tensor, "length d_model"]:
    """PE(pos, 2i) = sin(pos / 10000^(2i/d_model)), PE(pos, 2i+1) = cos(pos / 10000^(2i/d_model)).

    Computed in float64, returned in float32. Source: Vaswani et al. 2017, section 3.5.
    """
    even = torch.arange(0, d_model, 2, dtype=torch.float64, device="cpu")
    angle = torch.arange(length, dtype=torch.float64, device="cpu")[:, None] / 10000 ** (
        even / d_model
    )  # (length, d_model/2)
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1).float()


def inverse_frequencies(rope: RopeConfig, lengths: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "*BT R"]:
    """Radians a position for each rotated pair, R = dim/2; (B, T, R) where scaling depends on the request's length so
    far.

    Source: Su et al. 2021, eq. 15; for scalings see ``RopeScaling``. Formulas as in transformers' modeling_rope_utils.
    """
    device = None if lengths is None else lengths.device
    exponent = torch.arange(0, rope.dim, 2, dtype=torch.float32, device=device) / rope.dim  # (R,)
    plain = 1.0 / rope.theta**exponent
    if rope.pairs is not None:
        plain = plain * (torch.arange(rope.dim // 2, device=device) < rope.pairs)
    scaling = rope.scaling
    if scaling is None:
        return plain
    if scaling.kind == "factors":
        return plain / torch.tensor(scaling.short_factors, device=device)
    if not scaling.by_length:
        return scaled(rope, plain, torch.arange(rope.dim // 2, dtype=torch.float32, device=device))
    assert lengths is not None
    assert scaling.original_context_len is not None
    original = scaling.original_context_len
    if scaling.kind == "longrope":
        short, long = (
            torch.tensor(scaling.short_factors, device=device),
            torch.tensor(scaling.long_factors, device=device),
        )
        return plain / torch.where(lengths[..., None] > original, long, short)  # (B, T, R)
    # Dynamic NTK: θ · stretch^(dim / (dim − 2)), through logarithms in float64: torch's pow may round by a row's place
    # in the batch.
    stretch = scaling.factor * lengths.double().clamp(min=original) / original - (
        scaling.factor - 1
    )  # (B, T), 1 up to the original length
    log_theta = math.log(rope.theta) + torch.log(stretch) * (rope.dim / (rope.dim - 2))
    return torch.exp(-log_theta[..., None] * exponent).float()


def rotation(
    rope: RopeConfig, positions: Int[Tensor, "B T"], lengths: Int[Tensor, "B T"], dtype: torch.dtype
) -> tuple[Float[Tensor, "B 1 T R"], Float[Tensor, "B 1 T R"]]:
    """cos and sin of each pair's angle at each position, for all heads."""
    frequencies = inverse_frequencies(rope, lengths if rope.scaling and rope.scaling.by_length else None).to(
        positions.device
    )
    angle = (positions[..., None].float() * frequencies)[:, None]  # (B, 1, T, R)
    factor, dtype = magnitude(rope), torch.promote_types(dtype, torch.float32) if rope.wide else dtype
    return (angle.cos() * factor).to(dtype), (angle.sin() * factor).to(dtype)


def table(
    rope: RopeConfig, length: int, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "S R"], Float[Tensor, "S R"]]:
    """``rotation`` of every position below ``length``, for a rope whose angles follow from the position alone."""
    positions = torch.arange(length, device=device)[None]
    cos, sin = rotation(rope, positions, positions, dtype)
    return cos[0, 0], sin[0, 0]


def looked_up(
    made: tuple[Float[Tensor, "S R"], Float[Tensor, "S R"]], positions: Int[Tensor, "B T"]
) -> tuple[Float[Tensor, "B 1 T R"], Float[Tensor, "B 1 T R"]]:
    """Rows of such a table, for all heads."""
    cos, sin = made
    return cos[positions][:, None], sin[positions][:, None]


def query_growth(scale: QueryScale, positions: Int[Tensor, "B T"]) -> Float[Tensor, "B 1 T 1"]:
    """What queries are multiplied by at each position, in float32. Source: Meta AI 2025 (Llama 4)."""
    turns = torch.floor((positions.float() + scale.offset) / scale.every)
    return (1 + scale.beta * torch.log(1 + turns))[:, None, :, None]


def rotate(
    x: Float[Tensor, "B H T E"], cos: Float[Tensor, "B 1 T R"], sin: Float[Tensor, "B 1 T R"], layout: str
) -> Float[Tensor, "B H T E"]:
    """Turn each pair (a, b) of the first 2R dimensions: (a cos − b sin, b cos + a sin); the rest pass through."""
    pairs = cos.shape[-1]
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    if layout == "half":
        a, b = turned[..., :pairs], turned[..., pairs:]
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    else:
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    turned = turned.to(x.dtype)  # of wide angles it is in float32
    return torch.cat((turned, rest), -1) if rest.shape[-1] else turned
