"""Several data sets mixed in fixed shares, ``--mix 3,1``: sample n comes from one of them, which and which of its own
samples is a pure function of n, so that the position of a run is still one whole number.

A share is of rows, not of how much text there is: a small data set with a large share is read several times while a
large one with a small share is not read to its end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pellucid.base.errors import RequestError
from pellucid.train.data.batch import Batch
from pellucid.train.data.windows import Windows


def parse_weights(text: str, count: int) -> tuple[float, ...]:
    """``3,1`` as shares that sum to 1. Raises: RequestError for what is no list of ``count`` positive numbers."""
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        weights = []
    if len(weights) != count or not all(0 < weight < math.inf for weight in weights):
        raise RequestError(
            "--mix takes a positive number for each -d, in their order",
            expected=f"{count} of them, with commas between",
            received=text,
        )
    return tuple(weight / sum(weights) for weight in weights)


@dataclass(frozen=True)
class Mixture:
    """Windows of several data sets in shares that sum to 1."""

    parts: Sequence[Windows]
    shares: Sequence[float]

    def place(self, sample: int) -> tuple[int, int]:
        """(part, its own sample): as even as can be. Of the first n samples each part has its share, but for one or
        two; each part's own samples come one after the other.
        """
        left = 1.0
        for part, share in enumerate(self.shares[:-1]):
            ratio = share / left
            before, after = (math.floor(n * ratio + 0.5) for n in (sample, sample + 1))
            if after > before:
                return part, before
            sample, left = sample - before, left - share
        return len(self.shares) - 1, sample

    def shuffled(self, first: int, count: int) -> Batch:
        places = [self.place(sample) for sample in range(first, first + count)]
        return joined([self.parts[part].shuffled(own, 1) for part, own in places])

    def spread(self, count: int, rows: int) -> Iterator[Batch]:
        """Of each part its share of ``count`` windows, and one at the least."""
        for part, share in zip(self.parts, self.shares, strict=True):
            yield from part.spread(max(round(count * share), 1), rows)

    @property
    def num_tokens(self) -> int:
        return sum(len(part.stream) for part in self.parts)

    def epochs(self, samples: int) -> list[float]:
        """How often each part is read in so many samples."""
        return [samples * share / part.epoch_windows for part, share in zip(self.parts, self.shares, strict=True)]


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches of equally long rows as one, in order."""
    ids, targets, positions = (
        torch.cat([getattr(batch, name) for batch in batches]) for name in ("token_ids", "targets", "positions")
    )
    if all(batch.segments is None for batch in batches):
        return Batch(ids, targets, positions)
    segments = [torch.ones_like(batch.token_ids) if batch.segments is None else batch.segments for batch in batches]
    return Batch(ids, targets, positions, torch.cat(segments))
