"""Attention in training: in bfloat16 on a CPU by matrix products, elsewhere by the fused kernel, the same numbers
either way.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from pellucid.config import AttentionConfig
from pellucid.families import FAMILIES
from pellucid.model.attend import explicit
from pellucid.model.attention import Attention
from pellucid.model.context import Context
from pellucid.train import attend

CONFIG: AttentionConfig = FAMILIES["llama"].config(FAMILIES["llama"].TINY).layers[0].mixer
HEADS, KV_HEADS, LENGTH = 4, 2, 24


def inputs(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, heads, LENGTH, 8) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    return [torch.randn(shape, generator=generator).to(torch.bfloat16).to(dtype).requires_grad_() for shape in shapes]


def results(how: object, dtype: torch.dtype, window: int | None) -> list[Tensor]:
    """z, and the gradients of q, k and v."""
    attention = Attention(32, replace(CONFIG, num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=8, window=window), 0)
    its = inputs(dtype)
    z = how(attention, *its, Context(torch.arange(LENGTH).expand(2, LENGTH)))  # type: ignore[operator]
    z.backward(torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).to(dtype))
    return [z.detach().float(), *(tensor.grad.float() for tensor in its if tensor.grad is not None)]


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_causal_attention_is_the_equation(dtype: torch.dtype, window: int | None) -> None:
    for ours, equation in zip(
        results(attend.causal, dtype, window), results(explicit, torch.float32, window), strict=True
    ):
        bound = (
            1e-5 if dtype == torch.float32 else 0.02 * float(equation.abs().max())
        )  # bfloat16 keeps 8 bits of the pattern
        torch.testing.assert_close(ours, equation, rtol=0, atol=bound)


def test_scores_that_are_too_many_are_left_to_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    q, _, v = inputs(torch.bfloat16)
    assert attend._products_pay(q, v)
    monkeypatch.setattr(attend, "MAX_CELLS", q.shape[0] * HEADS * LENGTH**2 - 1)
    assert not attend._products_pay(q, v)
    assert not attend._products_pay(q.float(), v.float())


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(
    "how", [partial(attend.causal, dropout=0.3), attend.SegmentMasked(torch.zeros(2, LENGTH, dtype=torch.int64), 0.3)]
)
def test_dropout_leaves_out_weights_of_the_equation(how: object, softcap: float | None) -> None:
    """Of softmax(q kᵀ / √E), 3 in 10 weights become 0 and the others 1 / 0.7 times as large: the same random numbers,
    drawn by hand.
    """
    attention = Attention(32, replace(CONFIG, num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=8, softcap=softcap), 0)
    q, k, v = inputs(torch.float32)
    torch.manual_seed(5)
    ours = how(attention, q, k, v, Context(torch.arange(LENGTH).expand(2, LENGTH)))  # type: ignore[operator]

    scores = q @ k.repeat_interleave(2, 1).mT / 8**0.5
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), float("-inf")).softmax(-1)
    torch.manual_seed(5)
    kept = torch.nn.functional.dropout(torch.ones_like(weights), 0.3)
    assert 0.25 < (kept == 0).float().mean() < 0.35
    torch.testing.assert_close(ours, (weights * kept) @ v.repeat_interleave(2, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_segment_is_plain_causal_attention(dtype: torch.dtype, window: int | None) -> None:
    masked = attend.SegmentMasked(torch.zeros(2, LENGTH, dtype=torch.int64))
    for ours, plain in zip(results(masked, dtype, window), results(attend.causal, dtype, window), strict=True):
        torch.testing.assert_close(
            ours, plain, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.02 * float(plain.abs().max())
        )
