"""How far one model is from another on a text: what quantization, another dtype or another training changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.base.errors import ConfigError
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.train.data.batch import IGNORED, Batch
from pellucid.train.measure.evaluate import Evaluation, windows
from pellucid.train.measure.finite import check_finite

ROWS = 256  # logits of two models at a time


@dataclass(frozen=True)
class Comparison:
    """Sums over the scored tokens of both models' evaluations."""

    model: Evaluation
    reference: Evaluation
    kl: float  # Σ KL(reference ‖ model), nats
    num_agreeing: int  # tokens where both think the same one likeliest

    def __add__(self, other: Comparison) -> Comparison:
        return Comparison(
            self.model + other.model,
            self.reference + other.reference,
            self.kl + other.kl,
            self.num_agreeing + other.num_agreeing,
        )

    @property
    def mean_kl(self) -> float:
        """Nats a token."""
        return self.kl / self.model.num_scored

    @property
    def top1_agreement(self) -> float:
        return self.num_agreeing / self.model.num_scored


@torch.no_grad()
def compare(
    model: Decoder, reference: Decoder, ids: Sequence[int], num_bytes: int, *, context_len: int, stride: int
) -> Comparison:
    """Both models on the windows of ``evaluate``. Raises: ConfigError where they have different vocabularies;
    NotFiniteError.
    """
    if model.config.vocab_size != reference.config.vocab_size:
        raise ConfigError(
            "only models with one vocabulary can be compared",
            expected=reference.config.vocab_size,
            received=model.config.vocab_size,
        )
    nll, their_nll, kl, agreeing, num_scored = 0.0, 0.0, 0.0, 0, 0
    for batch in windows(torch.tensor(ids), context_len, stride):
        wanted = (batch.targets[0] != IGNORED).nonzero()[:, 0]
        targets = batch.targets[0, wanted]
        hidden = [_hidden(one, batch)[wanted.to(one.device)] for one in (model, reference)]
        for first in range(0, len(wanted), ROWS):
            log_p, log_q = (
                _log_p(one, rows[first : first + ROWS]) for one, rows in zip((model, reference), hidden, strict=True)
            )
            for one, values, name in ((model, log_p, "the model"), (reference, log_q, "the reference")):
                check_finite(one, batch.token_ids, values.sum(), f"a log-probability of {name}")
            target = targets[first : first + ROWS, None]
            nll -= log_p.gather(1, target).sum().item()
            their_nll -= log_q.gather(1, target).sum().item()
            kl += F.kl_div(log_p, log_q, reduction="sum", log_target=True).item()
            agreeing += int((log_p.argmax(-1) == log_q.argmax(-1)).sum())
        num_scored += len(wanted)
    ours, theirs = (Evaluation(total, num_scored, num_bytes, context_len, stride) for total in (nll, their_nll))
    return Comparison(ours, theirs, kl, agreeing)


def _hidden(model: Decoder, batch: Batch) -> Tensor:
    batch = batch.to(model.device)
    return model.hidden(batch.token_ids, batch.context())[0]  # (T, D)


def _log_p(model: Decoder, hidden: Tensor) -> Tensor:
    return model.logits(hidden, Context(torch.zeros(1, len(hidden), dtype=torch.int64))).float().log_softmax(-1).cpu()
