"""Attention that stays within a document: several texts are packed into one row, and none sees another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from pellucid.model.attend import visible

if TYPE_CHECKING:
    from pellucid.model.attention import Attention
    from pellucid.model.context import Context


class SegmentMasked:
    """``Context.attend`` for packed rows: softmax(q kᵀ · scale + mask) v, the mask causal, windowed, and by segment.

    One serves one batch: the mask is made once, and for layers with a window narrowed there. It takes no cache.
    """

    def __init__(self, segments: Int[Tensor, "B T"]) -> None:
        self._places = torch.arange(segments.shape[1], device=segments.device)
        same = segments[:, :, None] == segments[:, None, :]  # (B, T, T)
        self._seen: Bool[Tensor, "B 1 T T"] = (same & visible(self._places, self._places, None, None))[:, None]

    def __call__(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, ctx: Context) -> Tensor:
        assert ctx.cache is None
        config, groups = attention.config, q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)  # (B, H, T, E)
        mask = self._seen if config.window is None else self._seen & visible(self._places, self._places, config.window, None)
        if config.softcap is None:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=config.softmax_scale)
        scores = config.softcap * torch.tanh(q @ k.mT * (config.softmax_scale / config.softcap))  # (B, H, T, T)
        return scores.masked_fill(~mask, float("-inf")).float().softmax(-1).to(v.dtype) @ v
