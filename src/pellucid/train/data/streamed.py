"""Texts read while the model learns from them, ``--stream``: nothing is tokenized beforehand, nothing kept on the disk.

Windows come in the order of the texts, shuffled within a buffer of ``BUFFER`` of them; after the last text comes the
first again. Sample n is always the same, but to begin in the middle all texts before it are read once more (at the
speed of tokenizing, many times that of training).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from pellucid.text.tokenizer import Tokenizer
from pellucid.train.data.batch import Batch
from pellucid.train.data.errors import DataError
from pellucid.train.data.windows import batch_of

BUFFER = 1024
KEPT = 256  # samples that stay, for whoever looks at the first ones again
Texts = Callable[[], Iterable[Iterable[str]]]  # every document as pieces of text, anew at each call


@dataclass
class StreamedWindows:
    """Rows of ``context_len`` tokens of an endless text. The first ``num_held_back`` windows of the texts are for
    validation alone.
    """

    texts: Texts
    tokenizer: Tokenizer
    context_len: int
    seed: int = 0
    num_held_back: int = 0
    mask_documents: bool = True  # a token sees only its own document
    _first: list[np.ndarray] = field(default_factory=list)  # the first samples
    _position: int = 0
    _windows: Iterator[np.ndarray] | None = None

    def shuffled(self, first: int, count: int) -> Batch:
        return self._batch([self._sample(number) for number in range(first, first + count)])

    def held_back(self, rows: int) -> Iterator[Batch]:
        """The windows that come before all samples, ``rows`` at a time."""
        windows = list(islice(self._windows_of_a_pass(), self.num_held_back))
        for first in range(0, len(windows), rows):
            yield self._batch(windows[first : first + rows])

    def _sample(self, number: int) -> np.ndarray:
        if number < len(self._first):
            return self._first[number]
        if self._windows is None or number < self._position:
            self._windows, self._position = self._shuffled(), 0
        while True:
            window = next(self._windows)
            if self._position == len(self._first) < KEPT:
                self._first.append(window)
            self._position += 1
            if self._position > number:
                return window

    def _shuffled(self) -> Iterator[np.ndarray]:
        """Each window takes the place of a random one in the buffer, which comes out."""
        draw = np.random.default_rng([self.seed, 0])
        buffer: list[np.ndarray] = []
        for window in self._endless():
            if len(buffer) < BUFFER:
                buffer.append(window)
                continue
            place = int(draw.integers(BUFFER))
            buffer[place], window = window, buffer[place]
            yield window

    def _endless(self) -> Iterator[np.ndarray]:
        """Raises: DataError where a whole pass has nothing to learn from."""
        while True:
            none = True
            for window in islice(self._windows_of_a_pass(), self.num_held_back, None):
                none = False
                yield window
            if none:
                raise DataError(
                    "the texts are too short to learn from, what is held back left out",
                    where="--stream",
                    expected=f"more than {self.num_held_back * self.context_len + 1:,} tokens",
                )

    def _windows_of_a_pass(self) -> Iterator[np.ndarray]:
        """(2, ``context_len`` + 1): tokens, and 1 where a document begins; each begins with the last token of the one
        before it.
        """
        size, parts, length = self.context_len, [], 0
        for part in self._parts():
            parts.append(part)
            length += part.shape[1]
            if length > size:
                waiting = np.concatenate(parts, 1)
                while waiting.shape[1] > size:
                    yield waiting[:, : size + 1]
                    waiting = waiting[:, size:]
                parts, length = [waiting], waiting.shape[1]

    def _parts(self) -> Iterator[np.ndarray]:
        bos = self.tokenizer.bos_token_id
        for pieces in self.texts():
            begins = True
            for ids in ([] if bos is None else [bos], *map(self._encoded, pieces), self._end()):
                if len(ids):
                    part = np.zeros((2, len(ids)), np.int64)
                    part[0], part[1, 0] = ids, begins
                    begins = False
                    yield part

    def _encoded(self, piece: str) -> list[int]:
        return self.tokenizer.encode(piece, add_special_tokens=False)

    def _end(self) -> list[int]:
        eos = self.tokenizer.eos_token_id
        return [] if eos is None or eos == self.tokenizer.bos_token_id else [eos]

    def _batch(self, windows: list[np.ndarray]) -> Batch:
        begins = [window[1].astype(bool) for window in windows] if self.mask_documents else None
        ends_known = self.tokenizer.bos_token_id is not None and not self._end()
        return batch_of([window[0] for window in windows], begins, ends_known=ends_known)
