"""Attention in training: causal, or within a document where several are packed into one row.

torch's fused kernel is the rule. On a CPU in bfloat16 its backward pass takes twice the time of plain matrix products
and up to four times for short rows (torch 2.13; 8 rows of 256 tokens: 53 and 25 ms), so there the scores are held in
memory while they fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from pellucid.model.attend import distances_felt, in_one_chunk, sdpa, sinks_of, softmax, visible, with_distances

if TYPE_CHECKING:
    from pellucid.model.attention import Attention
    from pellucid.model.context import Context

MAX_CELLS = 2**26  # scores of a layer held in memory: 128 MB


def causal(attention: Attention, q: Tensor, k: Tensor, v: Tensor, ctx: Context, *, dropout: float = 0.0) -> Tensor:
    """``Context.attend`` for rows that each are one text. ``dropout``: the fraction of the weights (softmax's) that is
    left out.
    """
    if not dropout and (
        attention.config.softcap is not None or sinks_of(attention) is not None or not _products_pay(q, v)
    ):
        return sdpa(attention, q, k, v, ctx)
    places = torch.arange(q.shape[2], device=q.device)
    seen = _in_chunks(attention, ctx, visible(places, places, attention.config.window, None))
    return _attend(attention, q, k, v, seen, dropout)


class SegmentMasked:
    """``Context.attend`` for packed rows: softmax(q kᵀ · scale + mask) v, the mask causal, windowed, and by segment.

    One serves one batch: the mask is made once, and for layers with a window narrowed there. It takes no cache.
    ``dropout``: as ``causal``'s.
    """

    def __init__(self, segments: Int[Tensor, "B T"], dropout: float = 0.0) -> None:
        self._dropout = dropout
        self._places = torch.arange(segments.shape[1], device=segments.device)
        same = segments[:, :, None] == segments[:, None, :]  # (B, T, T)
        self._seen: Bool[Tensor, "B 1 T T"] = (same & visible(self._places, self._places, None, None))[:, None]

    def __call__(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, ctx: Context) -> Tensor:
        assert ctx.cache is None
        window = attention.config.window
        seen = self._seen if window is None else self._seen & visible(self._places, self._places, window, None)
        return _attend(attention, q, k, v, _in_chunks(attention, ctx, seen), self._dropout)


def _in_chunks(attention: Attention, ctx: Context, seen: Tensor) -> Tensor:
    """What is seen, where a query sees its own chunk alone."""
    if (chunk := attention.config.chunk) is None:
        return seen
    return seen & in_one_chunk(ctx.positions, ctx.positions, chunk)[:, None]


def _attend(
    attention: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seen: Bool[Tensor, "#B 1 T T"] | Bool[Tensor, "T T"],
    dropout: float,
) -> Tensor:
    config, groups = attention.config, q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)  # (B, H, T, E)
    places = torch.arange(q.shape[2], device=q.device)
    bias = distances_felt(config, places, places)
    if config.softcap is not None or sinks_of(attention) is not None:
        scores = q @ k.mT * config.softmax_scale  # (B, H, T, T)
        if config.softcap is not None:
            scores = config.softcap * torch.tanh(scores / config.softcap)
        scores = scores if bias is None else scores + bias.to(scores.dtype)
        pattern = softmax(scores.masked_fill(~seen, float("-inf")), sinks_of(attention))
        return F.dropout(pattern.to(v.dtype), dropout) @ v
    if not _products_pay(q, v):
        mask = with_distances(seen, bias, q)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=config.softmax_scale)
    scores = (q * config.softmax_scale).to(v.dtype) @ k.to(v.dtype).mT  # (B, H, T, T)
    scores = scores if bias is None else scores + bias.to(scores.dtype)
    return (
        F.dropout(
            (scores + torch.zeros_like(seen, dtype=v.dtype).masked_fill_(~seen, float("-inf"))).softmax(-1), dropout
        )
        @ v
    )


def _products_pay(q: Tensor, v: Tensor) -> bool:
    return (
        v.device.type == "cpu" and v.dtype == torch.bfloat16 and q.shape[0] * q.shape[1] * q.shape[2] ** 2 <= MAX_CELLS
    )
