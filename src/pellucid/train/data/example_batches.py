"""Examples as training data: one a row, or packed; sample n is a pure function of (seed, n), as with ``Windows``."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from pellucid.train.data.batch import IGNORED, Batch
from pellucid.train.data.errors import DataError
from pellucid.train.data.example_store import Examples
from pellucid.train.objectives.judged import JudgedBatch, mismatched
from pellucid.train.objectives.preference import PreferenceBatch

PADDING = 0  # the segment of places that hold no token
WIDTH_STEP = 16  # rows are as long as the longest of the batch, up to a multiple of this


@dataclass(frozen=True)
class ExampleBatches:
    """Samples of one split. A sample is a row of one example, a packed row of several, or the two rows of a pair.

    An example of L tokens takes L − 1 places: its last token is a target alone.
    """

    examples: Examples
    samples: Sequence[Sequence[Sequence[int]]]  # sample → rows → numbers of examples
    pad_id: int
    seed: int = 0
    width: int | None = None  # of every row; None: as the longest of the batch needs
    reference: np.ndarray | None = None  # (num_pairs, 2): log π_ref of every pair's answers
    context_len: int | None = None  # that a prompt and another's answer must fit (KTO); None: no matter

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self.samples)

    @property
    def mean_places(self) -> float:
        """Places that the examples of a sample take, padding left out."""
        lengths = self.examples.lengths
        return sum(int(lengths[example]) - 1 for sample in self.samples for row in sample for example in row) / len(
            self.samples
        )

    def shuffled(self, first: int, count: int) -> Batch:
        """Samples ``first`` … ``first + count − 1`` of the endless order: each once an epoch, in an order of the
        epoch's own.
        """
        return self._batch([self._at(number) for number in range(first, first + count)])

    def drawn(self, count: int) -> list[int]:
        """Numbers of the samples that the first ``count`` of the endless order are, each once."""
        return (
            list(range(len(self.samples)))
            if count >= len(self.samples)
            else sorted({self._at(number) for number in range(count)})
        )

    def pairs(self, samples: Iterable[int]) -> list[int]:
        """Which pair of the examples each of the samples is."""
        return [self.samples[sample][0][0] // 2 for sample in samples]

    def spread(self, count: int, size: int) -> Iterator[Batch]:
        """``count`` samples at even distances, ``size`` at a time: always the same."""
        chosen = self.chosen(count)
        for first in range(0, len(chosen), size):
            yield self._batch(chosen[first : first + size])

    def chosen(self, count: int) -> Sequence[int]:
        """Numbers of the samples that ``spread`` gives."""
        total = len(self.samples)
        return range(total) if count >= total else np.linspace(0, total - 1, count).astype(int).tolist()

    def _at(self, number: int) -> int:
        epoch, place = divmod(number, len(self.samples))
        if epoch not in self._orders:
            for old in [its for its in self._orders if its < epoch - 1]:
                del self._orders[old]
            self._orders[epoch] = np.random.default_rng([self.seed, epoch]).permutation(len(self.samples))
        return int(self._orders[epoch][place])

    @cached_property
    def _orders(self) -> dict[int, np.ndarray]:
        return {}

    def _batch(self, samples: Sequence[int]) -> Batch:
        numbers = [row for sample in samples for row in self.samples[sample]]
        rows = [[self.examples[number] for number in row] for row in numbers]
        made = self._rows(rows)
        if self.examples.good is not None:
            good = torch.from_numpy(self.examples.good[[row[0] for row in numbers]])
            return JudgedBatch(made.token_ids, made.targets, made.positions, None, good, self._mismatched(rows))
        if self.examples.paired:
            reference = None if self.reference is None else torch.from_numpy(self.reference[self.pairs(samples)])
            return PreferenceBatch(made.token_ids, made.targets, made.positions, None, reference)
        return made

    def _rows(self, rows: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]) -> Batch:
        longest = max(sum(len(ids) - 1 for ids, _ in row) for row in rows)
        shape = (len(rows), self.width or -(-longest // WIDTH_STEP) * WIDTH_STEP)
        token_ids, targets = np.full(shape, self.pad_id, np.int64), np.full(shape, IGNORED, np.int64)
        positions, segments = np.zeros(shape, np.int64), np.full(shape, PADDING, np.int64)
        for number, row in enumerate(rows):
            at = 0
            for segment, (ids, learned) in enumerate(row, PADDING + 1):
                places = slice(at, at := at + len(ids) - 1)
                token_ids[number, places] = ids[:-1]
                targets[number, places] = np.where(learned[1:], ids[1:], IGNORED)
                positions[number, places] = np.arange(len(ids) - 1)
                segments[number, places] = segment
        made = torch.from_numpy(token_ids), torch.from_numpy(targets), torch.from_numpy(positions)
        if all(len(row) == 1 for row in rows):  # padding follows the text, and causal attention never looks at it
            return Batch(*made)
        return Batch(*made, torch.from_numpy(segments))

    def _mismatched(self, rows: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]) -> Batch:
        """Each prompt with the answer of the row before it."""
        parts = [(ids[: int(learned.argmax())], ids[int(learned.argmax()) :]) for ((ids, learned),) in rows]
        limit = (self.width or self.context_len or sum(len(ids) for ((ids, _),) in rows)) + 1
        made = mismatched([(prompt.tolist(), answer.tolist()) for prompt, answer in parts], limit)
        return self._rows(
            [
                [(np.array(prompt + answer), np.arange(len(prompt) + len(answer)) >= len(prompt))]
                for prompt, answer in made
            ]
        )


def split_records(records: np.ndarray, val_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the examples to train on, and of those held back: a fixed random ``val_fraction`` of the records (of
    very few, none).

    All examples of a record are on one side. Raises: DataError where nothing would be left to train on.
    """
    distinct = np.unique(records)
    num_held = round(len(distinct) * val_fraction)
    if num_held == len(distinct):
        raise DataError(
            "no example is left to train on",
            expected="more than one record",
            received=len(distinct),
            remedy="more data, or --val-fraction 0",
        )
    held = np.isin(records, np.random.default_rng(0).permutation(distinct)[:num_held])
    return (~held).nonzero()[0], held.nonzero()[0]


def rows_of(numbers: Sequence[int], examples: Examples, *, pack_into: int | None = None) -> list[list[list[int]]]:
    """The samples made of examples ``numbers``: pairs, single rows, or rows of at most ``pack_into`` places.

    Packing is best fit, longest first: deterministic, and a row's neighbours stay the same in every epoch.
    """
    if examples.paired:
        return [[[int(chosen)], [int(rejected)]] for chosen, rejected in zip(numbers[::2], numbers[1::2], strict=True)]
    if pack_into is None:
        return [[[int(number)]] for number in numbers]
    lengths = examples.lengths
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (places left, number of the row), sorted
    for number in sorted(map(int, numbers), key=lambda number: (-lengths[number], number)):
        needed = int(lengths[number]) - 1
        best = bisect_left(room, (needed, -1))
        if best == len(room):
            rows.append([])
            left, row = pack_into, len(rows) - 1
        else:
            left, row = room.pop(best)
        rows[row].append(number)
        insort(room, (left - needed, row))
    return [[row] for row in rows]
