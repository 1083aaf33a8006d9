"""Training data: a stream of tokens for each split, cut into windows, in an order that the seed and a sample's number
decide.

There is no iterator to save: sample n is a pure function of (seed, n), so the position of a run is one whole number.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from pellucid.train.data.batch import IGNORED, Batch
from pellucid.train.data.shards import Shards
from pellucid.train.data.sources import DataError


@dataclass(frozen=True)
class Stream:
    """The tokens of one split, end to end. Of every source the last ``val_fraction`` of its tokens is held back for
    ``val``.
    """

    shards: Shards
    split: Literal["train", "val"]
    val_fraction: float
    numbers: tuple[int, ...] | None = None  # of the shards; None: all

    @cached_property
    def _parts(self) -> list[tuple[int, int, int]]:
        """(shard, first, stop) of each part."""
        parts = []
        for number in range(len(self.shards.shards)) if self.numbers is None else self.numbers:
            shard = self.shards.shards[number]
            cut = int(shard.num_tokens * (1 - self.val_fraction))
            parts.append((number, 0, cut) if self.split == "train" else (number, cut, shard.num_tokens))
        return [part for part in parts if part[1] < part[2]]

    @cached_property
    def _begins(self) -> list[int]:
        """Where each part begins in the stream."""
        return np.cumsum([0, *(stop - first for _, first, stop in self._parts)]).tolist()

    @cached_property
    def _opened(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(self.shards.tokens(number), self.shards.document_starts(number)) for number, _, _ in self._parts]

    def __len__(self) -> int:
        return self._begins[-1]

    def read(self, start: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """``length`` tokens from ``start`` on, and for each whether a document begins with it (a part always begins
        one).
        """
        tokens, begins = np.empty(length, np.int64), np.zeros(length, bool)
        at = 0
        while at < length:
            part = bisect_right(self._begins, start + at) - 1
            _, first, stop = self._parts[part]
            ids, starts = self._opened[part]
            place = first + start + at - self._begins[part]  # in the shard
            count = min(stop - place, length - at)
            tokens[at : at + count] = ids[place : place + count]
            low, high = np.searchsorted(starts, [place, place + count])
            begins[at + starts[low:high] - place] = True
            begins[at] |= place == first
            at += count
        return tokens, begins


@dataclass(frozen=True)
class Windows:
    """Rows of ``context_len`` tokens and their targets. ``mask_documents``: a token sees only its own document."""

    stream: Stream
    context_len: int
    seed: int = 0
    mask_documents: bool = True

    def __post_init__(self) -> None:
        if len(self.stream) < self.context_len + 1:
            raise DataError(
                f"the texts are too short for one row of {self.stream.split} data",
                expected=f"at least {self.context_len + 1} tokens",
                received=len(self.stream),
                remedy="more text, a shorter --context-len, or another --val-fraction",
            )

    def num_windows(self, phase: int = 0) -> int:
        return (len(self.stream) - 1 - phase) // self.context_len

    def shuffled(self, first: int, count: int) -> Batch:
        """Samples ``first`` … ``first + count − 1`` of the endless shuffled order: every window once an epoch, cut at
        another place each time.
        """
        return self._rows([self._place(sample) for sample in range(first, first + count)])

    def in_order(self, rows: int) -> Iterator[Batch]:
        """Every window once, as the text goes."""
        for first in range(0, self.num_windows(), rows):
            yield self._rows(
                [window * self.context_len for window in range(first, min(first + rows, self.num_windows()))]
            )

    def spread(self, count: int, rows: int) -> Iterator[Batch]:
        """``count`` windows at even distances over the split: always the same, and a fair sample of it."""
        total = self.num_windows()
        chosen = range(total) if count >= total else np.linspace(0, total - 1, count).astype(int).tolist()
        for first in range(0, len(chosen), rows):
            yield self._rows([window * self.context_len for window in chosen[first : first + rows]])

    @property
    def epoch_windows(self) -> int:
        """Windows of an epoch: as many as fit wherever the first one begins."""
        return max(self.num_windows(self.context_len - 1), 1)

    def _place(self, sample: int) -> int:
        """Where sample ``sample`` begins."""
        epoch, number = divmod(sample, self.epoch_windows)
        phase, order = self._epoch(epoch)
        return phase + int(order[number]) * self.context_len

    def _epoch(self, epoch: int) -> tuple[int, np.ndarray]:
        """Where the first window of an epoch begins, and the order of its windows; the latest epoch's are kept."""
        if epoch not in self._epochs:
            generator = np.random.default_rng([self.seed, epoch])
            spare = len(self.stream) - 1 - self.epoch_windows * self.context_len
            phase = int(generator.integers(min(spare + 1, self.context_len)))
            self._epochs.clear()
            self._epochs[epoch] = phase, generator.permutation(self.epoch_windows)
        return self._epochs[epoch]

    @cached_property
    def _epochs(self) -> dict[int, tuple[int, np.ndarray]]:
        return {}

    def _rows(self, places: list[int]) -> Batch:
        read = [self.stream.read(place, self.context_len + 1) for place in places]
        shards = self.stream.shards
        begins = [starts for _, starts in read] if self.mask_documents else None
        # BOS alone between documents: then it is what ends the document before
        return batch_of([ids for ids, _ in read], begins, ends_known=shards.marks_start and not shards.marks_end)


def batch_of(rows: Sequence[np.ndarray], begins: Sequence[np.ndarray] | None, *, ends_known: bool) -> Batch:
    """Rows of T + 1 tokens as a batch of T. ``begins``: where documents begin, each of which then is alone;
    ``ends_known``: the token that begins a document also ends the one before.
    """
    ids = torch.from_numpy(np.stack(rows))  # (B, T + 1)
    token_ids, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    if begins is None:
        return Batch.of(token_ids, targets)
    first = torch.from_numpy(np.stack(begins))
    if not ends_known:
        targets[first[:, 1:]] = IGNORED  # nothing in a document says what the next one begins with
    first = first[:, :-1].clone()
    first[:, 0] = True
    places_in_row = torch.arange(token_ids.shape[1])
    positions = places_in_row - torch.where(first, places_in_row, 0).cummax(1).values
    if not first[:, 1:].any():  # no row holds two documents: plain causal attention, which is faster
        return Batch.of(token_ids, targets)
    return Batch(token_ids, targets, positions, first.cumsum(1))
