"""``Batch``: rows of tokens, what should follow each, and which document each belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.model.context import Context, Recorder
from pellucid.train.attend import SegmentMasked, causal

IGNORED = -100  # a target that does not count, as in transformers and torch


@dataclass(frozen=True)
class Batch:
    """``targets[b, t]`` is the token that should follow ``token_ids[b, t]`` (already shifted), or IGNORED.

    ``positions`` begin anew with each document where ``segments`` are given; a token then sees only its own segment.
    """

    token_ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    positions: Int[Tensor, "B T"]
    segments: Int[Tensor, "B T"] | None = None

    @classmethod
    def of(cls, token_ids: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]) -> Batch:
        """Rows that each are one text."""
        return cls(
            token_ids, targets, torch.arange(token_ids.shape[1], device=token_ids.device).expand(token_ids.shape)
        )

    @property
    def num_targets(self) -> int:
        """Targets that count."""
        return int((self.targets != IGNORED).sum())

    def context(self, recorder: Recorder | None = None, attention_dropout: float = 0.0) -> Context:
        """The forward pass that this batch asks for; in training, a fraction ``attention_dropout`` of the attention
        weights is dropped.
        """
        if self.segments is not None:
            return Context(
                self.positions,
                attend=SegmentMasked(self.segments, attention_dropout),
                recorder=recorder,
                segments=self.segments,
                lengths=_lengths(self.positions, self.segments),
            )
        attend = partial(causal, dropout=attention_dropout) if attention_dropout else causal
        return Context(self.positions, attend=attend, recorder=recorder)

    def to(self, device: torch.device) -> Batch:
        segments = None if self.segments is None else self.segments.to(device)
        return Batch(self.token_ids.to(device), self.targets.to(device), self.positions.to(device), segments)

    def split(self, rows: int) -> Sequence[Batch]:
        """Micro-batches of at most ``rows`` rows."""
        parts = zip(self.token_ids.split(rows), self.targets.split(rows), self.positions.split(rows), strict=True)
        segments = [None] * len(self.token_ids) if self.segments is None else self.segments.split(rows)
        return [Batch(*part, its) for part, its in zip(parts, segments, strict=False)]


def _lengths(positions: Int[Tensor, "B T"], segments: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Of each token's own document: some rotary scalings go by it, and a neighbour's is nobody's business."""
    places = segments - segments.amin(1, keepdim=True)
    ends = positions.new_zeros(len(positions), positions.shape[1] + 1)
    return ends.scatter_reduce(1, places, positions + 1, "amax").gather(1, places)
