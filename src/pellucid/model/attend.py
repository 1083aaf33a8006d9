"""Ways to attend: the fused kernel, and the same mathematics step by step with every matrix open to view.

Both take q (B, H, T, E), k and v (B, K, T, E) as rotated and projected, append k and v to the cache if there is one
(where the module does not bring those of all tokens itself), and return z = softmax(q kᵀ · scale + mask) v of shape
(B, H, T, E). Values may be of another width than keys; z is of theirs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pellucid.model.context import Context
from pellucid.model.keys_values import FullCache, KeepsKeys, WindowCache


class Attends(nn.Module):
    """What a way to attend knows of the module it serves: its description, and the layer whose state it adds to."""

    config: KeepsKeys
    layer: int
    lends = False  # later layers look at its keys and values

    def remembered(self, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, int]:
        """All keys and values, cached ones first; the place in the sequence of the first."""
        if ctx.cache is None:
            return k, v, 0
        state = ctx.cache.layers[self.layer]
        assert isinstance(state, FullCache | WindowCache)
        k, v, first = state.append(k, v)
        if self.lends:  # a window's buffer moves when more is added
            kept = (k.clone(), v.clone()) if isinstance(state, WindowCache) else (k, v)
            ctx.lent[self.layer] = *kept, first
        return k, v, first


def visible(
    queries: Int[Tensor, "T"], keys: Int[Tensor, "S"], window: int | None, key_mask: Bool[Tensor, "B S"] | None
) -> Bool[Tensor, "T S"] | Bool[Tensor, "B 1 T S"]:
    """Which key a query may see: none after it, none ``window`` or more before it, no padding.

    ``queries`` and ``keys`` are places in the sequence. Every query sees itself, so no row of the softmax is empty.
    """
    distance = queries[:, None] - keys[None, :]  # (T, S)
    seen = distance >= 0
    if window is not None:
        seen &= distance < window
    if key_mask is None:
        return seen
    return seen & (key_mask[:, None, None, :] | (distance == 0))  # (B, 1, T, S)


def in_one_chunk(queries: Int[Tensor, "*B T"], keys: Int[Tensor, "*B S"], chunk: int) -> Bool[Tensor, "*B T S"]:
    """Whether positions are in the same chunk of so many."""
    queries, keys = (torch.div(places, chunk, rounding_mode="floor") for places in (queries, keys))
    return queries[..., :, None] == keys[..., None, :]


def distances_felt(
    config: KeepsKeys, queries: Int[Tensor, "T"], keys: Int[Tensor, "S"]
) -> Float[Tensor, "H T S"] | None:
    """ALiBi: what each head's scores lose by the distance of query and key; None where they lose nothing."""
    if config.alibi is None:
        return None
    slopes = torch.tensor(config.alibi_slopes, device=queries.device)
    return slopes[:, None, None] * (keys[None, :] - queries[:, None])


def with_distances(
    mask: Bool[Tensor, "T S"] | Bool[Tensor, "B 1 T S"], bias: Float[Tensor, "H T S"] | None, like: Tensor
) -> Tensor:
    """The mask as a fused kernel takes it: of truth values, or of what is added to the scores."""
    return mask if bias is None else bias.to(like.dtype).masked_fill(~mask, float("-inf"))


def sdpa(attention: Attends, q: Tensor, k: Tensor, v: Tensor, ctx: Context) -> Tensor:
    """The fused kernel (FlashAttention-like: the scores are never in memory as a whole).

    A query whose scores are all NaN gets zeros from it: see ``Context.sums``.
    """
    config, (batch, num_heads, num_queries, head_dim) = attention.config, q.shape
    sinks = sinks_of(attention)
    if config.softcap is not None or (sinks is not None and num_queries == 1):
        return explicit(attention, q, k, v, ctx)
    k, v, first = attention.remembered(k, v, ctx)
    start = first + k.shape[2] - num_queries
    num_keys, groups = k.shape[2], num_heads // k.shape[1]
    implied = (
        ctx.key_mask is None
        and sinks is None
        and config.alibi is None
        and num_queries in (1, num_keys)
        and (config.window is None or num_keys <= config.window)
        and (config.chunk is None or start + num_queries <= config.chunk)
    )
    mask = None
    if not implied:
        seen, bias = _mask(attention, num_queries, num_keys, start, first, ctx)
        mask = with_distances(seen, bias, q)
    if (
        num_queries == 1 and groups > 1
    ):  # the heads that share a key-value head stand in as its rows: nothing is repeated
        q = q.reshape(batch, k.shape[1], groups, head_dim)
        if mask is not None and config.alibi is not None:
            mask = mask.reshape(*mask.shape[:-3], k.shape[1], groups, num_keys)
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=config.softmax_scale)
        return z.reshape(batch, num_heads, 1, -1)  # on a GPU it may come by other strides
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    if sinks is not None:
        return _beside_sinks(q, k, v, sinks, mask, config.softmax_scale)
    causal = implied and num_queries > 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=config.softmax_scale)


def _beside_sinks(
    q: Tensor, k: Tensor, v: Tensor, sinks: Float[Tensor, "H"], mask: Tensor | None, scale: float
) -> Float[Tensor, "B H T E"]:
    """The fused kernel, for heads with a score beside their keys': one more key, which all see and whose value is 0.

    Queries get one more number, the sink's score, that this key alone multiplies, by 1; zeros fill up the width that
    kernels like.
    """
    assert mask is not None
    width, more = v.shape[-1], 8
    own = q.new_zeros(*q.shape[:-1], more)
    own[..., 0] = (sinks / scale).to(q.dtype)[:, None]
    nobody = F.one_hot(torch.tensor(k.shape[-1], device=k.device), k.shape[-1] + more).to(k.dtype)
    k = torch.cat((F.pad(k, (0, more)), nobody.expand(*k.shape[:2], 1, -1)), 2)
    v = F.pad(v, (0, k.shape[-1] - width, 0, 1))
    seen = F.pad(mask, (0, 1), value=True if mask.dtype == torch.bool else 0.0)
    return F.scaled_dot_product_attention(torch.cat((q, own), -1), k, v, attn_mask=seen, scale=scale)[..., :width]


def explicit(attention: Attends, q: Tensor, k: Tensor, v: Tensor, ctx: Context) -> Tensor:
    """The equation as written; taps ``scores`` (scaled, capped, masked) and ``pattern``."""
    config = attention.config
    k, v, first = attention.remembered(k, v, ctx)
    start = first + k.shape[2] - q.shape[2]
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)  # (B, H, S, E)
    scores = q @ k.mT * config.softmax_scale  # (B, H, T, S)
    if config.softcap is not None:
        scores = config.softcap * torch.tanh(scores / config.softcap)
    mask, bias = _mask(attention, q.shape[2], k.shape[2], start, first, ctx)
    scores = scores if bias is None else scores + bias.to(scores.dtype)
    scores = ctx.tap(attention, "scores", scores.masked_fill(~mask, float("-inf")))
    pattern = ctx.tap(attention, "pattern", softmax(scores, sinks_of(attention)).to(v.dtype))
    return pattern @ v  # (B, H, T, E)


def sinks_of(attention: Attends) -> Tensor | None:
    """The score that each head has beside its keys'; None where heads have none."""
    return getattr(attention, "sinks", None)


def softmax(scores: Float[Tensor, "B H T S"], sinks: Float[Tensor, "H"] | None) -> Float[Tensor, "B H T S"]:
    """Each row's shares, in float32; a sink's share, where there is one, is left out of what is returned."""
    if sinks is None:
        return scores.float().softmax(-1)
    beside = sinks.float()[:, None, None].expand(*scores.shape[:-1], 1)
    return torch.cat((scores.float(), beside), -1).softmax(-1)[..., :-1]


def _mask(
    attention: Attends, num_queries: int, num_keys: int, start: int, first: int, ctx: Context
) -> tuple[Tensor, Tensor | None]:
    """Which keys each query sees, and what is added to their scores."""
    device = ctx.positions.device
    queries = torch.arange(start, start + num_queries, device=device)
    keys = torch.arange(first, first + num_keys, device=device)
    key_mask = None if ctx.key_mask is None else ctx.key_mask[:, first : first + num_keys]
    seen = visible(queries, keys, attention.config.window, key_mask)
    if (chunk := attention.config.chunk) is not None:
        if ctx.key_mask is not None:  # places are counted from each text's first token
            positions = ctx.key_mask.cumsum(1) - 1  # (B, S)
            queries_in, keys_in = positions[:, queries], positions[:, keys]
            seen = seen & in_one_chunk(queries_in, keys_in, chunk)[:, None]
        else:
            seen = seen & in_one_chunk(queries, keys, chunk)
    return seen, distances_felt(attention.config, queries, keys)
