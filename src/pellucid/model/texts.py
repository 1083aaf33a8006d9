"""Which tokens of a pass are one text's, for mixers that go through a text in order and look at no mask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pellucid.model.context import Context


def without_padding(ctx: Context, value: Tensor) -> Tensor:
    """(B, T, …) with zeros where the pass has padding: nothing comes from there."""
    if ctx.key_mask is None:
        return value
    start = 0 if ctx.cache is None else ctx.cache.length
    mask = ctx.key_mask[:, start : start + value.shape[1]]
    return value * mask.view(*mask.shape, *(1,) * (value.ndim - 2)).to(value.dtype)


def by_text(ctx: Context, mix: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """``mix(*values)`` of each text of packed rows by itself (``ctx.segments``), all (B, T, …): nothing of one text
    reaches the next. Texts stand side by side as rows of one batch, with zeros after the shorter ones.
    """
    if ctx.segments is None:
        return mix(*values)
    segments = ctx.segments
    first = torch.ones_like(segments, dtype=torch.bool)
    first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    text = first.flatten().cumsum(0) - 1  # (B · T,) which of all texts a token is in
    starts = first.flatten().nonzero()[:, 0]
    place = torch.arange(len(text), device=text.device) - starts[text]
    if len(starts) == len(segments):
        return mix(*values)
    longest = int(place.max()) + 1

    def apart(value: Tensor) -> Tensor:
        rows = value.new_zeros(len(starts), longest, *value.shape[2:])
        return rows.index_put((text, place), value.flatten(0, 1))

    mixed = mix(*(apart(value) for value in values))
    return mixed[text, place].unflatten(0, segments.shape)
