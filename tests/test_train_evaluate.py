"""Evaluation: every token of a text is scored once, with at least the context that the stride promises."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.base.errors import RequestError
from pellucid.families import FAMILIES
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.train.data.batch import IGNORED
from pellucid.train.measure.evaluate import evaluate, windows

MODEL = Decoder(FAMILIES["llama"].config(FAMILIES["llama"].TINY)).initialize(torch.Generator().manual_seed(0))


@settings(max_examples=200, deadline=None)
@given(length=st.integers(2, 90), context_len=st.integers(1, 20), data=st.data())
def test_every_target_counts_in_one_window_and_sees_enough(length: int, context_len: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context_len))
    ids = torch.arange(length)
    seen: list[int] = []
    for batch in windows(ids, context_len, stride):
        assert batch.token_ids.shape[1] <= context_len
        first = int(batch.token_ids[0, 0])
        for target in batch.targets[batch.targets != IGNORED].tolist():
            seen.append(target)
            assert target - first >= min(target, context_len - stride + 1), "tokens before it in its window"
    assert seen == list(range(1, length))


def test_one_window_is_torch_s_cross_entropy() -> None:
    ids = torch.randint(96, (40,), generator=torch.Generator().manual_seed(1))
    its = evaluate(MODEL, ids.tolist(), num_bytes=100)
    logits = MODEL(ids[None, :-1], Context(torch.arange(39)[None]))[0]
    expected = F.cross_entropy(logits, ids[1:], reduction="sum").item()
    assert its.nll == pytest.approx(expected, rel=1e-5)
    assert its.perplexity == pytest.approx(math.exp(expected / 39), rel=1e-4)
    assert its.bits_per_byte == pytest.approx(expected / math.log(2) / 100, rel=1e-5)


def test_rows_of_a_batch_do_not_change_the_score() -> None:
    ids = torch.randint(96, (300,), generator=torch.Generator().manual_seed(1)).tolist()
    one, four = (evaluate(MODEL, ids, 300, context_len=32, stride=8, rows=rows) for rows in (1, 4))
    assert one.nll == pytest.approx(four.nll, rel=1e-5)
    assert one.num_scored == four.num_scored == 299


def test_bad_requests_are_refused() -> None:
    with pytest.raises(RequestError, match="at least 2"):
        evaluate(MODEL, [1], 1)
    with pytest.raises(RequestError, match="1 to 16"):
        evaluate(MODEL, [1, 2, 3], 3, context_len=16, stride=17)
