"""Learning from preferences: of two answers to a prompt, the chosen one is made likelier, measured against a frozen
reference.

DPO: −log σ(β · margin), margin = (log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l)).
Source: Rafailov et al. 2023 eq. 7 (DPO); Mitchell 2023 (label smoothing, cDPO); Azar et al. 2023 eq. 17 (IPO).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pellucid.base.errors import ConfigError, RequestError
from pellucid.model.context import Recorder
from pellucid.model.decoder import Decoder
from pellucid.train.data.batch import IGNORED, Batch
from pellucid.train.lora import lora_layers, without_adapter
from pellucid.train.objectives.loss import Forward, Loss, token_nll


@dataclass(frozen=True)
class PreferenceBatch(Batch):
    """Pairs of rows: the chosen answer of pair i is row 2i, the rejected one row 2i + 1; ``targets`` are those of the
    answers alone.

    A pair is one target, which of the two is preferred; so a step's loss is the mean over pairs.
    """

    reference: Float[Tensor, "P 2"] | None = (
        None  # log π_ref of chosen and rejected, where they were computed beforehand
    )

    @classmethod
    def of_pairs(cls, chosen: Batch, rejected: Batch, reference: Float[Tensor, "P 2"] | None = None) -> PreferenceBatch:
        """Two batches of as many rows, shuffled together, the shorter padded on the right, where nothing looks."""
        if len(chosen.token_ids) != len(rejected.token_ids):
            raise RequestError(
                "each pair has a chosen and a rejected row",
                expected=len(chosen.token_ids),
                received=len(rejected.token_ids),
            )
        if chosen.segments is not None or rejected.segments is not None:
            raise RequestError("a row of a pair is one text", remedy="pairs are not packed")
        length = max(chosen.token_ids.shape[1], rejected.token_ids.shape[1])

        def pairs(name: str, padding: int) -> Tensor:
            both = [getattr(batch, name) for batch in (chosen, rejected)]
            return torch.stack([F.pad(rows, (0, length - rows.shape[1]), value=padding) for rows in both], 1).flatten(
                0, 1
            )

        return cls(pairs("token_ids", 0), pairs("targets", IGNORED), pairs("positions", 0), None, reference)

    @property
    def num_targets(self) -> int:
        return len(self.token_ids) // 2

    def to(self, device: torch.device) -> PreferenceBatch:
        moved = super().to(device)
        reference = None if self.reference is None else self.reference.to(device)
        return PreferenceBatch(moved.token_ids, moved.targets, moved.positions, None, reference)

    def split(self, rows: int) -> Sequence[PreferenceBatch]:
        """Micro-batches of at most ``rows`` pairs."""
        parts = super().split(2 * rows)
        references = [None] * len(parts) if self.reference is None else self.reference.split(rows)
        return [
            PreferenceBatch(*(part.token_ids, part.targets, part.positions, None), its)
            for part, its in zip(parts, references, strict=True)
        ]


@dataclass(frozen=True)
class PreferenceLoss(Loss):
    """Sums over pairs. A reward is β · (log π − log π_ref) of an answer: what DPO takes the answer to be worth."""

    chosen_reward: Float[Tensor, ""]
    rejected_reward: Float[Tensor, ""]
    num_right: Float[Tensor, ""]  # pairs whose chosen answer has the greater reward

    @property
    def margin(self) -> Float[Tensor, ""]:
        """Σ chosen − rejected reward."""
        return self.chosen_reward - self.rejected_reward


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings:
    """``beta`` holds the model to its reference. ``label_smoothing``: the fraction of pairs taken to be labelled the
    wrong way round.

    ``kind``: ``sigmoid`` (DPO), or ``ipo``, (margin − 1 / 2β)², which does not push a margin beyond its mark and
    compares mean log-probabilities. ``mean_log_probs``: of a token rather than of the answer, so that length plays no
    part.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    kind: Literal["sigmoid", "ipo"] = "sigmoid"
    mean_log_probs: bool = False

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ConfigError("beta must be positive", where="DPO", received=self.beta)
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(
                "label smoothing must be below a half", where="DPO", expected="0 to 0.5", received=self.label_smoothing
            )
        if self.kind not in ("sigmoid", "ipo"):
            raise ConfigError(f"there is no preference loss {self.kind!r}", expected="sigmoid or ipo")


def preference_loss(
    model: Decoder,
    batch: Batch,
    settings: PreferenceSettings = PreferenceSettings(),
    *,
    reference: Decoder | None = None,
    recorder: Recorder | None = None,
    attention_dropout: float = 0.0,
    forward: Forward | None = None,
) -> PreferenceLoss:
    """The loss of a ``PreferenceBatch``, summed over its pairs.

    The reference is what the batch brings along, else ``reference`` (a frozen copy), else the model with its LoRA left
    out. ``forward`` stands in for ``model.hidden``: the same, compiled.

    Raises: ConfigError where there is none of these.
    """
    assert isinstance(batch, PreferenceBatch)
    log_probs = pair_log_probs(
        model, batch, settings, recorder=recorder, attention_dropout=attention_dropout, forward=forward
    )  # (P, 2)
    gain = log_probs - _of_reference(model, batch, settings, reference).to(log_probs)
    margin = gain[:, 0] - gain[:, 1]
    rewards = settings.beta * gain.detach()
    if settings.kind == "ipo":
        losses = (margin - 1 / (2 * settings.beta)).square()
    else:
        logits, wrong = settings.beta * margin, settings.label_smoothing
        losses = -(1 - wrong) * F.logsigmoid(logits) - wrong * F.logsigmoid(-logits)
    right = (rewards[:, 0] > rewards[:, 1]).sum()
    return PreferenceLoss(
        losses.sum(), losses.detach().sum(), batch.num_targets, rewards[:, 0].sum(), rewards[:, 1].sum(), right
    )


def pair_log_probs(
    model: Decoder,
    batch: PreferenceBatch,
    settings: PreferenceSettings = PreferenceSettings(),
    *,
    recorder: Recorder | None = None,
    attention_dropout: float = 0.0,
    forward: Forward | None = None,
) -> Float[Tensor, "P 2"]:
    """log p(answer | prompt) of chosen and rejected: the sum over the answer's tokens, or their mean."""
    ctx = batch.context(recorder, attention_dropout)
    hidden = (forward or model.hidden)(batch.token_ids, ctx)  # (R, T, D)
    counted = batch.targets != IGNORED
    row = counted.nonzero()[:, 0]
    nll, _ = token_nll(model, hidden[counted], batch.targets[counted], ctx)
    sums = nll.new_zeros(len(batch.token_ids)).index_add(0, row, -nll)
    if settings.mean_log_probs or settings.kind == "ipo":
        sums = sums / counted.sum(1).clamp(min=1)
    return sums.view(-1, 2)


@torch.no_grad()
def _of_reference(
    model: Decoder, batch: PreferenceBatch, settings: PreferenceSettings, reference: Decoder | None
) -> Float[Tensor, "P 2"]:
    if batch.reference is not None:
        return batch.reference
    if reference is not None:
        return pair_log_probs(reference, batch, settings)
    if not lora_layers(model):
        raise ConfigError(
            "there is nothing to compare the model with",
            where="preference_loss",
            expected="a model with LoRA, a frozen reference, or the reference's log-probabilities in the batch",
        )
    with without_adapter(model):
        return pair_log_probs(model, batch, settings)


@dataclass(frozen=True)
class PreferenceScores:
    """Means over pairs."""

    loss: float
    chosen_reward: float
    rejected_reward: float
    accuracy: float

    @property
    def margin(self) -> float:
        return self.chosen_reward - self.rejected_reward


@torch.no_grad()
def preference_scores(
    model: Decoder,
    batches: Iterable[PreferenceBatch],
    settings: PreferenceSettings = PreferenceSettings(),
    *,
    reference: Decoder | None = None,
    autocast: torch.dtype | None = None,
) -> PreferenceScores:
    """How a model judges pairs: held-back ones, say."""
    with torch.autocast(model.device.type, autocast) if autocast else nullcontext():
        losses = [preference_loss(model, batch.to(model.device), settings, reference=reference) for batch in batches]
    num_pairs = max(sum(loss.num_targets for loss in losses), 1)

    def mean(values: Iterable[Tensor]) -> float:
        return float(sum(values)) / num_pairs

    return PreferenceScores(
        loss=mean(loss.nll for loss in losses),
        chosen_reward=mean(loss.chosen_reward for loss in losses),
        rejected_reward=mean(loss.rejected_reward for loss in losses),
        accuracy=mean(loss.num_right for loss in losses),
    )
