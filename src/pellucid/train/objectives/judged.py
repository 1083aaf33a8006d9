"""Learning from answers that were each judged alone, good or bad (KTO): good ones are made likelier than a frozen
reference finds them, bad ones less likely, both measured against how far the model has moved on the whole.

    good: w₊ · (1 − σ(β · (r − z)))        bad: w₋ · (1 − σ(β · (z − r)))        r = log π(y|x) − log π_ref(y|x)

z ≥ 0 estimates KL(π ‖ π_ref): the mean of r over answers that belong to other prompts, y of the row before, without a
gradient. It is **a mean of the micro-batch**, so the split of a batch enters into it, as it does in TRL.

Source: Ethayarajh et al. 2024 eq. 7 and 8 (KTO); TRL's ``KTOTrainer`` (which rows z is taken of).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.base.errors import ConfigError
from pellucid.model.context import Recorder
from pellucid.model.decoder import Decoder
from pellucid.train.data.batch import Batch
from pellucid.train.lora import lora_layers, without_adapter
from pellucid.train.objectives.loss import Forward, Loss
from pellucid.train.objectives.preference import row_nll


@dataclass(frozen=True)
class JudgedBatch(Batch):
    """Rows of one answer each; ``mismatched`` has as many, each prompt with the answer of the row before it. A row is
    one target: whether it is good.
    """

    good: Bool[Tensor, "B"] | None = None
    mismatched: Batch | None = None

    @property
    def num_targets(self) -> int:
        return len(self.token_ids)

    def to(self, device: torch.device) -> JudgedBatch:
        assert self.good is not None
        assert self.mismatched is not None
        rows = super().to(device)
        return JudgedBatch(
            rows.token_ids, rows.targets, rows.positions, None, self.good.to(device), self.mismatched.to(device)
        )

    def split(self, rows: int) -> Sequence[JudgedBatch]:
        assert self.good is not None
        assert self.mismatched is not None
        parts = zip(super().split(rows), self.good.split(rows), self.mismatched.split(rows), strict=True)
        return [
            JudgedBatch(part.token_ids, part.targets, part.positions, None, good, other) for part, good, other in parts
        ]


@dataclass(frozen=True, kw_only=True)
class JudgedSettings:
    """``beta`` holds the model to its reference; the weights even out kinds of which there are more than of the other
    (a good one times its weight should count 1 to 1.33 times all bad ones: eq. 8).
    """

    beta: float = 0.1
    good_weight: float = 1.0
    bad_weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ConfigError("beta must be positive", where="KTO", received=self.beta)
        if not (self.good_weight > 0 and self.bad_weight > 0):
            raise ConfigError("weights must be positive", where="KTO", received=(self.good_weight, self.bad_weight))


@dataclass(frozen=True)
class JudgedLoss(Loss):
    """Sums over rows. A reward is β · r."""

    good_reward: Float[Tensor, ""]
    bad_reward: Float[Tensor, ""]
    num_good: int
    kl: Float[Tensor, ""]  # z, in nats


def judged_loss(
    model: Decoder,
    batch: Batch,
    settings: JudgedSettings = JudgedSettings(),
    *,
    reference: Decoder | None = None,
    recorder: Recorder | None = None,
    attention_dropout: float = 0.0,
    forward: Forward | None = None,
) -> JudgedLoss:
    """KTO's loss of a ``JudgedBatch``, summed over its rows. The reference is ``reference`` (a frozen copy), else the
    model with its LoRA left out.

    Raises: ConfigError where there is neither.
    """
    assert isinstance(batch, JudgedBatch)
    assert batch.good is not None
    assert batch.mismatched is not None
    if reference is None and not lora_layers(model):
        raise ConfigError(
            "there is nothing to compare the model with", where="judged_loss", expected="LoRA, or a frozen reference"
        )
    dropout = {"recorder": recorder, "attention_dropout": attention_dropout, "forward": forward}
    ours = -row_nll(model, batch, batch.targets, **dropout).sum(1)  # type: ignore[arg-type]
    with torch.no_grad():
        moved = _log_probs(model, batch.mismatched)
        if reference is not None:
            theirs, unmoved = _log_probs(reference, batch), _log_probs(reference, batch.mismatched)
        else:
            with without_adapter(model):
                theirs, unmoved = _log_probs(model, batch), _log_probs(model, batch.mismatched)
        kl = (moved - unmoved).mean().clamp(min=0)
    gain, good = ours - theirs, batch.good
    kept = torch.where(good, gain - kl, kl - gain)
    weight = torch.where(good, settings.good_weight, settings.bad_weight)
    losses = weight * (1 - torch.sigmoid(settings.beta * kept))
    rewards = settings.beta * gain.detach()
    return JudgedLoss(
        losses.sum(),
        losses.detach().sum(),
        batch.num_targets,
        (rewards * good).sum(),
        (rewards * ~good).sum(),
        int(good.sum()),
        kl,
    )


def _log_probs(model: Decoder, batch: Batch) -> Float[Tensor, "B"]:
    return -row_nll(model, batch, batch.targets).sum(1)


def mismatched(rows: Sequence[tuple[Sequence[int], Sequence[int]]], limit: int) -> list[tuple[list[int], list[int]]]:
    """Prompts with the answer of the row before (of the first row, the last one's), in at most ``limit`` tokens.
    ``rows``: (prompt ids, answer ids).
    """
    made = []
    for (prompt, _), (_, answer) in zip(rows, [rows[-1], *rows[:-1]], strict=True):
        room = max(limit - len(prompt), 1)
        made.append(([*prompt][-(limit - 1) :], [*answer][:room]))
    return made


@torch.no_grad()
def judged_scores(
    model: Decoder,
    batches: Iterable[Batch],
    settings: JudgedSettings = JudgedSettings(),
    *,
    autocast: torch.dtype | None = None,
) -> tuple[float, float]:
    """(mean loss, how much more good answers are worth than bad ones, on average) of held-back rows."""
    with torch.autocast(model.device.type, autocast) if autocast else nullcontext():
        losses = [judged_loss(model, batch.to(model.device), settings) for batch in batches]
    count = max(sum(loss.num_targets for loss in losses), 1)
    num_good = sum(loss.num_good for loss in losses)
    good = float(sum(loss.good_reward for loss in losses)) / max(num_good, 1)
    bad = float(sum(loss.bad_reward for loss in losses)) / max(count - num_good, 1)
    return float(sum(loss.nll for loss in losses)) / count, good - bad


def check_both(good: Sequence[bool]) -> str | None:
    """What to say of data that has one kind alone, or far more of one than of the other."""
    num_good = sum(good)
    num_bad = len(good) - num_good
    if not num_good or not num_bad:
        return f"all {len(good):,} answers are {'good' if num_good else 'bad'}: KTO learns from the difference"
    if max(num_good, num_bad) > 1.34 * min(num_good, num_bad):
        few, times = "--good-weight" if num_good < num_bad else "--bad-weight", max(num_good, num_bad)
        times /= min(num_good, num_bad)
        return f"{num_good:,} good answers and {num_bad:,} bad ones: {few} {times:.2g} would even them out"
    return None
