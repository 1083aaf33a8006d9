"""One query a row, over rows of different lengths."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.model.attend import (
    Attends,
    distances_felt,
    in_one_chunk,
    sinks_of,
    softmax,
    visible,
    with_distances,
)
from pellucid.model.context import Context


def by_row(attention: Attends, q: Tensor, k: Tensor, v: Tensor, ctx: Context) -> Tensor:
    """As ``attend.sdpa``: q (B, H, 1, E) over the keys that each row has up to its position; z (B, H, 1, E).

    Heads that share a key-value head stand in as its rows: nothing is repeated.
    """
    config = attention.config
    k, v, _ = attention.remembered(k, v, ctx)  # (B, K, S, E)
    batch, kv_heads, num_keys = len(q), k.shape[1], k.shape[2]
    places, keys = ctx.positions[:, 0], torch.arange(num_keys, device=q.device)  # (B,), (S,)
    seen = visible(places, keys, config.window, None)
    if config.chunk is not None:
        seen = seen & in_one_chunk(places, keys, config.chunk)
    seen = seen[:, None, None]  # (B, 1, 1, S)
    grouped = q.reshape(batch, kv_heads, -1, q.shape[-1])  # (B, K, G, E)
    bias = distances_felt(config, places, keys)  # (H, B, S)
    bias = None if bias is None else bias.transpose(0, 1).unflatten(1, (kv_heads, -1))  # (B, K, G, S)
    sinks = sinks_of(attention)
    if config.softcap is None and sinks is None:
        mask = with_distances(seen, bias, q)
        z = F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask, scale=config.softmax_scale)
    else:
        scores = grouped @ k.mT * config.softmax_scale  # (B, K, G, S)
        if config.softcap is not None:
            scores = config.softcap * torch.tanh(scores / config.softcap)
        scores = scores if bias is None else scores + bias.to(scores.dtype)
        scores = scores.masked_fill(~seen, float("-inf")).view(batch, -1, 1, num_keys)
        z = softmax(scores, sinks).to(v.dtype).view(batch, kv_heads, -1, num_keys) @ v
    if q.dtype == torch.float16:  # the fused kernel hides what overflowed: see ``Context.sums``
        z = z + 0 * grouped.sum((1, 2, 3), keepdim=True)
    return z.reshape(batch, q.shape[1], 1, -1)
