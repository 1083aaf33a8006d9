"""How well a model predicts a text: mean loss of batches; perplexity and bits per byte with a stated stride."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from pellucid.base.errors import RequestError
from pellucid.model.decoder import Decoder
from pellucid.train.data.batch import IGNORED, Batch
from pellucid.train.measure.finite import check_finite
from pellucid.train.objectives.loss import language_loss


@torch.no_grad()
def mean_loss(model: Decoder, batches: Iterable[Batch], *, autocast: torch.dtype | None = None) -> float:
    """Mean −log p of all targets that count, in nats."""
    nll = num_targets = 0.0
    for batch in batches:
        with torch.autocast(model.device.type, autocast) if autocast else nullcontext():
            loss = language_loss(model, batch.to(model.device))
        nll += loss.nll.item()
        num_targets += loss.num_targets
    return nll / max(num_targets, 1)


@dataclass(frozen=True)
class Evaluation:
    """``nll``: Σ −log p in nats, over ``num_scored`` tokens that stand for ``num_bytes`` bytes of UTF-8."""

    nll: float
    num_scored: int
    num_bytes: int
    context_len: int
    stride: int

    def __add__(self, other: Evaluation) -> Evaluation:
        return replace(
            self,
            nll=self.nll + other.nll,
            num_scored=self.num_scored + other.num_scored,
            num_bytes=self.num_bytes + other.num_bytes,
        )

    @property
    def perplexity(self) -> float:
        """exp(nll / tokens): depends on the tokenizer."""
        return math.exp(min(self.nll / self.num_scored, 700))

    @property
    def bits_per_byte(self) -> float:
        """nll / (ln 2 · bytes): comparable between tokenizers."""
        return self.nll / math.log(2) / self.num_bytes


def evaluate(
    model: Decoder,
    ids: Sequence[int],
    num_bytes: int,
    *,
    context_len: int | None = None,
    stride: int | None = None,
    rows: int = 4,
) -> Evaluation:
    """Score a text in windows of ``context_len`` tokens that advance by ``stride``; in each only the tokens that no
    window before it scored.

    A small stride gives each token at least ``context_len − stride`` tokens before it, and costs context_len / stride
    as much. The first id is given, never scored: put BOS first, or a text's first token goes unscored.

    Raises: RequestError for fewer than two tokens, or a stride beyond the context; NotFiniteError.
    """
    context_len = min(context_len or model.config.context_len, model.config.context_len)
    stride = stride or context_len
    if len(ids) < 2:
        raise RequestError("the text is too short to be scored", expected="at least 2 tokens", received=len(ids))
    if not 1 <= stride <= context_len:
        raise RequestError("the stride must fit the context", expected=f"1 to {context_len}", received=stride)
    all_ids = torch.tensor(ids)
    nll, num_scored, waiting = 0.0, 0, []
    for batch in windows(all_ids, context_len, stride):
        if waiting and (len(waiting) == rows or batch.token_ids.shape != waiting[0].token_ids.shape):
            nll, num_scored = _add(model, waiting, nll, num_scored)
            waiting = []
        waiting.append(batch)
    nll, num_scored = _add(model, waiting, nll, num_scored)
    return Evaluation(nll, num_scored, num_bytes, context_len, stride)


def windows(ids: torch.Tensor, context_len: int, stride: int) -> Iterable[Batch]:
    """Windows of one row each; every target of the text counts in exactly one."""
    scored, start = 0, 0  # targets so far: target t is ids[t + 1]
    while scored < len(ids) - 1:
        stop = min(start + context_len, len(ids) - 1)
        targets = ids[start + 1 : stop + 1].clone()
        targets[: scored - start] = IGNORED
        yield Batch.of(ids[None, start:stop], targets[None])
        scored, start = stop, min(start + stride, max(len(ids) - 1 - context_len, start + 1))


@torch.no_grad()
def _add(model: Decoder, batches: list[Batch], nll: float, num_scored: int) -> tuple[float, int]:
    together = Batch.of(
        torch.cat([batch.token_ids for batch in batches]), torch.cat([batch.targets for batch in batches])
    )
    loss = language_loss(model, together.to(model.device))
    check_finite(model, together.token_ids, loss.nll, "the text's log-probability")
    return nll + loss.nll.item(), num_scored + loss.num_targets
