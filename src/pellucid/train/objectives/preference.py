"""Learning from preferences: of two answers to a prompt, the chosen one is made likelier, measured against a frozen
reference, or against the other answer alone.

DPO: −log σ(β · margin), margin = (log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l)).
SimPO: −log σ(β · margin − γ), margin = log p(y_w) − log p(y_l), both means over an answer's tokens; no reference.
ORPO: nll(chosen) − β · log σ(log odds(y_w) − log odds(y_l)), odds(y) = p / (1 − p) of the mean; no reference.
Source: Rafailov et al. 2023 eq. 7 (DPO); Mitchell 2023 (label smoothing, cDPO); Azar et al. 2023 eq. 17 (IPO); Meng et
al. 2024 eq. 6 (SimPO); Hong et al. 2024 eq. 6 and 7 (ORPO).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
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
    # Pairs for each token of the chosen rows, in the whole batch that this is a part of: ORPO's nll is a mean of these.
    pairs_per_token: float | None = None

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
        return PreferenceBatch(moved.token_ids, moved.targets, moved.positions, None, reference, self.pairs_per_token)

    def split(self, rows: int) -> Sequence[PreferenceBatch]:
        """Micro-batches of at most ``rows`` pairs."""
        parts = super().split(2 * rows)
        references = [None] * len(parts) if self.reference is None else self.reference.split(rows)
        share = self.pairs_per_chosen_token()
        return [
            PreferenceBatch(*(part.token_ids, part.targets, part.positions, None), its, share)
            for part, its in zip(parts, references, strict=True)
        ]

    def chosen_labels(self) -> Int[Tensor, "R T"]:
        """The targets; of the chosen rows those of the prompt as well, which ORPO's nll counts as TRL's does."""
        following = torch.cat([self.token_ids[:, 1:], self.targets[:, -1:]], 1)
        counted = self.targets != IGNORED
        in_text = counted.flip(1).cumsum(1).flip(1) > 0  # up to the last target: behind it is padding
        in_text[1::2] = False
        return torch.where(in_text & ~counted, following, self.targets)

    def pairs_per_chosen_token(self) -> float:
        if self.pairs_per_token is not None:
            return self.pairs_per_token
        return self.num_targets / max(int((self.chosen_labels()[::2] != IGNORED).sum()), 1)


@dataclass(frozen=True)
class PreferenceLoss(Loss):
    """Sums over pairs. A reward is β · (log π − log π_ref) of an answer: what DPO takes the answer to be worth; without
    a reference β · log π of a token, on average.
    """

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
    compares mean log-probabilities; ``simpo`` and ``orpo``, which need no reference, and of which ``gamma`` is SimPO's
    mark. ``mean_log_probs``: of a token rather than of the answer, so that length plays no part.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    kind: Literal["sigmoid", "ipo", "simpo", "orpo"] = "sigmoid"
    mean_log_probs: bool = False
    gamma: float = 0.0

    @property
    def has_reference(self) -> bool:
        return self.kind in ("sigmoid", "ipo")

    @property
    def compares_means(self) -> bool:
        """Log-probabilities of a token, on average, rather than of the answer."""
        return self.mean_log_probs or self.kind != "sigmoid"

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ConfigError("beta must be positive", where="DPO", received=self.beta)
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(
                "label smoothing must be below a half", where="DPO", expected="0 to 0.5", received=self.label_smoothing
            )
        if self.kind not in ("sigmoid", "ipo", "simpo", "orpo"):
            raise ConfigError(f"there is no preference loss {self.kind!r}", expected="sigmoid, ipo, simpo or orpo")


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
    log_probs, nll = _log_probs(model, batch, settings, recorder, attention_dropout, forward)  # (P, 2), (P,)
    gain = log_probs
    if settings.has_reference:
        gain = log_probs - _of_reference(model, batch, settings, reference).to(log_probs)
    margin = gain[:, 0] - gain[:, 1]
    rewards = settings.beta * gain.detach()
    if settings.kind == "ipo":
        losses = (margin - 1 / (2 * settings.beta)).square()
    elif settings.kind == "orpo":
        log_odds = margin - (_log1mexp(gain[:, 0]) - _log1mexp(gain[:, 1]))
        losses = nll * batch.pairs_per_chosen_token() - settings.beta * F.logsigmoid(log_odds)
    else:
        logits, wrong = settings.beta * margin - settings.gamma, settings.label_smoothing
        losses = -(1 - wrong) * F.logsigmoid(logits) - wrong * F.logsigmoid(-logits)
    right = (rewards[:, 0] > rewards[:, 1]).sum()
    return PreferenceLoss(
        losses.sum(), losses.detach().sum(), batch.num_targets, rewards[:, 0].sum(), rewards[:, 1].sum(), right
    )


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 − eˣ) of x < 0, exact at either end. Source: Mächler 2012."""
    x = x.clamp(max=-1e-7)  # a probability of 1 would have infinite odds
    near = x > -0.6931
    return torch.where(near, (-torch.expm1(torch.where(near, x, -1.0))).log(), torch.log1p(-torch.exp(x)))


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
    return _log_probs(model, batch, settings, recorder, attention_dropout, forward)[0]


def _log_probs(
    model: Decoder,
    batch: PreferenceBatch,
    settings: PreferenceSettings,
    recorder: Recorder | None,
    attention_dropout: float,
    forward: Forward | None,
) -> tuple[Float[Tensor, "P 2"], Float[Tensor, "P"]]:
    """(log p of the answers, −log p of each whole chosen row, which ORPO alone asks for)."""
    labels = batch.chosen_labels() if settings.kind == "orpo" else batch.targets
    each = row_nll(model, batch, labels, recorder=recorder, attention_dropout=attention_dropout, forward=forward)
    counted = batch.targets != IGNORED
    sums = -(each * counted).sum(1)
    if settings.compares_means:
        sums = sums / counted.sum(1).clamp(min=1)
    return sums.view(-1, 2), each.sum(1)[::2]


def row_nll(
    model: Decoder,
    batch: Batch,
    labels: Int[Tensor, "R T"],
    *,
    recorder: Recorder | None = None,
    attention_dropout: float = 0.0,
    forward: Forward | None = None,
) -> Float[Tensor, "R T"]:
    """−log p of each label; 0 where it is IGNORED."""
    ctx = batch.context(recorder, attention_dropout)
    hidden = (forward or model.hidden)(batch.token_ids, ctx)  # (R, T, D)
    places = labels != IGNORED
    nll, _ = token_nll(model, hidden[places], labels[places], ctx)
    return nll.new_zeros(labels.shape).masked_scatter(places, nll)


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
