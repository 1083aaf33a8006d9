"""``Slots``: what a finished answer has computed is kept, and a prompt that begins alike goes on from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.executor import Executor


@dataclass
class _Kept:
    slot: int
    token_ids: np.ndarray  # that the slot holds
    capacity: int
    reusable: int  # of these tokens, from the first: those that were cut into steps as any other request would cut them


class Slots:
    """An executor's slots, new or used before. The least recently used give way.

    ``chunk``: where splits matter, a prompt goes on only where it would be cut anyway, at a multiple of it; None:
    anywhere. So its numbers are those that it would have in a new slot.
    """

    def __init__(self, executor: Executor, context_len: int, chunk: int | None) -> None:
        self.executor, self.context_len, self.chunk = executor, context_len, chunk
        self._kept: list[_Kept] = []  # the least recently used first
        self._capacity: dict[int, int] = {}  # of slots in use

    def take(self, prompt: Sequence[int] | np.ndarray, capacity: int, *, whole: bool = False) -> tuple[int, int]:
        """A slot with room for ``capacity`` tokens, and how many of the prompt's it holds: never all, for the last
        one's logits are wanted; none where the ``whole`` prompt is.

        The kept slot that has most of it is taken over, or copied where much else would be lost.
        """
        ids = np.asarray(prompt, np.int64)
        lengths = [self._common(kept, ids) for kept in self._kept]
        length = 0 if whole else max(lengths, default=0)
        if not length:
            return self._note(self._new(capacity), capacity), 0
        kept = self._kept.pop(lengths.index(length))
        try:
            if kept.reusable - length <= length:
                return self._continue(kept, length, capacity), length
            self._kept.append(kept)
            return self.fork(kept.slot, capacity, length), length
        except Exception:  # no memory for a copy, say: a new slot will do, or says why not
            return self._note(self._new(capacity), capacity), 0

    def fork(self, slot: int, capacity: int, length: int | None = None) -> int:
        """A copy of a slot's first tokens. Raises: as the executor does."""
        return self._note(self.executor.fork(slot, capacity, length), capacity)

    def keep(self, slot: int, token_ids: Sequence[int] | np.ndarray, reusable: int) -> None:
        """The slot's owner has finished, and vouches for its first tokens: it is kept, or freed where nothing can come
        of it.
        """
        capacity = self._capacity.pop(slot)
        length = min(len(token_ids), self.executor.length(slot))
        if self.executor.reaches(slot, length):
            self.executor.truncate(slot, length)
        else:
            length = 0
        reusable = length if self.chunk is None else min(reusable, length) // self.chunk * self.chunk
        if reusable:
            self._kept.append(_Kept(slot, np.asarray(token_ids[:length], np.int64), capacity, reusable))
        else:
            self.executor.free(slot)

    def free(self, slot: int) -> None:
        """The slot's owner has finished, and nobody knows what is in it."""
        del self._capacity[slot]
        self.executor.free(slot)

    def shrink(self, most: int) -> None:
        """Keep at most so many slots that nobody uses."""
        while len(self._kept) > max(most, 0):
            self.executor.free(self._kept.pop(0).slot)

    def _common(self, kept: _Kept, ids: np.ndarray) -> int:
        """Tokens of a prompt that a kept slot has, that may be used, and to which it can be cut back."""
        most = min(kept.reusable, len(ids) - 1)
        different = np.flatnonzero(kept.token_ids[:most] != ids[:most])
        length = int(different[0]) if len(different) else most
        length = length if self.chunk is None else length // self.chunk * self.chunk
        return length if self.executor.reaches(kept.slot, length) else 0

    def _continue(self, kept: _Kept, length: int, capacity: int) -> int:
        """A kept slot cut back to ``length``; where it is too small, a copy with room to grow, so that a conversation
        is seldom copied.
        """
        try:
            if capacity <= kept.capacity:
                self.executor.truncate(kept.slot, length)
                return self._note(kept.slot, kept.capacity)
            slot = self.fork(kept.slot, max(capacity, min(2 * kept.capacity, self.context_len)), length)
        except BaseException:
            self.executor.free(kept.slot)
            raise
        self.executor.free(kept.slot)
        return slot

    def _new(self, capacity: int) -> int:
        """Raises: what the executor raises where there is no memory even without what is kept."""
        try:
            return self.executor.allocate(capacity)
        except Exception:
            if not self._kept:
                raise
        self.shrink(0)
        return self.executor.allocate(capacity)

    def _note(self, slot: int, capacity: int) -> int:
        self._capacity[slot] = capacity
        return slot
