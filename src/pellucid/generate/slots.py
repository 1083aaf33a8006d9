"""``Slots``: an executor's slots within a budget of memory; and what was computed for one prompt serves others that
begin alike.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from pellucid.executor import Executor
from pellucid.generate.prefixes import BLOCK, Prefixes, agreement

TESTS = 256  # sequences that a prompt is compared with, token by token, at most
WORTH_WAITING = 64  # tokens that a running request is about to compute, and that need not be computed twice
LITTLE = 8  # a kept slot is taken over, not copied, where less than one part in so many of what is used is lost
SPARE = 256  # tokens of an answer that a new slot has room for; it grows with the answer


@dataclass(eq=False)
class Held:
    """One slot: what is in it, and how much of that others may go on from."""

    number: int
    capacity: int
    token_ids: np.ndarray  # that it holds; in use: that it will hold when the prompt has been computed
    reusable: float  # of these, from the first: those that were cut into steps as any other request would cut them
    since: float = field(default_factory=time.monotonic)  # that nobody uses it


class NoRoom(MemoryError):
    """The budget has no room for a slot now; it will when others end."""


class Slots:
    """An executor's slots, those in use and those that are kept of answers that have ended. Of these the least recently
    used give way.

    ``chunk``: where splits matter, a prompt goes on only where it would be cut anyway, at a multiple of it; None:
    anywhere. So its numbers are those that it would have in a new slot. ``memory``: bytes of all slots together;
    ``kept_memory``: of those that nobody uses, ``most_kept``: their number at most.
    """

    def __init__(
        self,
        executor: Executor,
        context_len: int,
        chunk: int | None,
        *,
        memory: float = math.inf,
        kept_memory: float = math.inf,
        most_kept: int = 1024,
    ) -> None:
        self.executor, self.context_len, self.chunk = executor, context_len, chunk
        self.memory, self.kept_memory, self.most_kept = memory, kept_memory, most_kept
        self._in_use: dict[int, Held] = {}
        self._kept: dict[int, Held] = {}  # the least recently used first
        self._prefixes = Prefixes()
        self._bytes: dict[int, int] = {}  # of a capacity

    # --- what a request asks for ---

    def take(
        self,
        prompt: Sequence[int] | np.ndarray,
        capacity: int,
        *,
        least: int | None = None,
        whole: bool = False,
        may_wait: bool = False,
    ) -> tuple[int, int] | None:
        """A slot with room for ``capacity`` tokens (or fewer, for ``least`` and some more: see ``grow``), and how many
        of the prompt's it holds: never all, for the last one's logits are wanted; none where the ``whole`` prompt is.
        None where the prompt ``may_wait`` and another that is being computed begins alike.

        The slot that has most of it is copied, or taken over where little is lost by that. Raises: NoRoom; MemoryError
        where the executor has none.
        """
        ids = np.asarray(prompt, np.int64)
        source, length, promised = (None, 0, 0) if whole else self._nearest(ids)
        if may_wait and promised - length >= WORTH_WAITING:
            return None
        first = capacity if least is None else min(capacity, self._round(least + SPARE))
        if source is not None:
            try:
                slot = self._go_on(source, length, first)
                self._uses(slot, ids)
                return slot, length
            except Exception:  # no memory for a copy, say: a new slot will do, or says why not
                self.reclaim(self._in_use.keys())
        slot = self._claim(lambda: self.executor.allocate(first), first)
        self._uses(slot, ids)
        return slot, 0

    def fork(self, slot: int, capacity: int) -> int:
        """A copy of a slot in use with room for ``capacity`` tokens, or fewer. Raises: NoRoom, and as the executor."""
        origin = self._in_use[slot]
        first = min(capacity, self._round(len(origin.token_ids) + SPARE))
        number = self._claim(lambda: self.executor.fork(slot, first), first)
        self._in_use[number].token_ids, self._in_use[number].reusable = origin.token_ids, origin.reusable
        return number

    def room(self, slot: int) -> int:
        """Tokens that fit into a slot as it is."""
        return self._in_use[slot].capacity - self.executor.length(slot)

    def grow(self, slot: int, least: int, most: int) -> int:
        """The same in a slot for at least so many tokens, for twice as many as before if it can be. Returns its number.
        Raises: NoRoom, and as the executor; nothing has changed then.
        """
        old = self._in_use[slot]
        capacity = max(least, min(most, self._round(2 * old.capacity)))
        try:
            number = self._claim(lambda: self.executor.fork(slot, capacity), capacity)
        except MemoryError:
            if self._round(least) >= capacity:
                raise
            capacity = min(most, self._round(least))
            number = self._claim(lambda: self.executor.fork(slot, capacity), capacity)
        new = self._in_use[number]
        new.token_ids, new.reusable = old.token_ids, old.reusable
        self._prefixes.add(number, new.token_ids)
        self.free(slot)
        return number

    def keep(self, slot: int, token_ids: Sequence[int] | np.ndarray, reusable: int) -> None:
        """The slot's owner has finished, and vouches for its first tokens: it is kept, or freed where nothing can come
        of it.
        """
        held = self._in_use.get(slot)
        if held is None:  # an interruption came between its copy and its end
            return None
        length = min(len(token_ids), self.executor.length(slot))
        if self.executor.reaches(slot, length):
            self.executor.truncate(slot, length)
        else:
            length = 0
        held.token_ids, held.since = np.array(token_ids[:length], np.int64), time.monotonic()
        held.reusable = length if self.chunk is None else min(reusable, length) // self.chunk * self.chunk
        if not held.reusable:
            return self.free(slot)
        if self.executor.rollback is None:  # what this one has, too, need not be kept twice
            for number in self._within(held):
                self._drop(number)
        self._prefixes.add(slot, held.token_ids)
        self._kept[slot] = held
        del self._in_use[slot]
        return self.shrink(self.kept_memory)

    def free(self, slot: int) -> None:
        """The slot's owner has finished, and nobody shall go on from what is in it. Twice is once."""
        self._prefixes.remove(slot)
        if slot in self.executor.slots:
            self.executor.free(slot)
        self._in_use.pop(slot, None)

    # --- memory ---

    def bytes_of(self, capacity: int) -> int:
        if capacity not in self._bytes:
            if len(self._bytes) > 10_000:
                self._bytes.clear()
            self._bytes[capacity] = self.executor.bytes_of(capacity)
        return self._bytes[capacity]

    @property
    def used(self) -> int:
        """Bytes of the slots in use."""
        return sum(self.bytes_of(held.capacity) for held in self._in_use.values())

    @property
    def kept(self) -> int:
        """Bytes of the slots that nobody uses."""
        return sum(self.bytes_of(held.capacity) for held in self._kept.values())

    def longest(self, most: int) -> int:
        """Tokens, up to ``most``, for which the budget has room."""
        if self.bytes_of(most) <= self.memory:
            return most
        low, high = 0, most  # the first fits, the second does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.executor.bytes_of(middle) <= self.memory else (low, middle)
        return low

    def shrink(self, most: float = 0, *, idle: float = 0, but: Held | None = None) -> None:
        """Give back slots that nobody uses, the least recently used first, down to so many bytes; of those that were
        used within the last ``idle`` seconds none.
        """
        kept, before = self.kept, time.monotonic() - idle
        for held in list(self._kept.values()):
            if kept <= most and len(self._kept) <= self.most_kept:
                break
            if held is not but and held.since <= before:
                kept -= self.bytes_of(held.capacity)
                self._drop(held.number)

    def reclaim(self, owned: Collection[int]) -> None:
        """After an interruption, which may have come at any place: what nobody owns is given back."""
        for number in [number for number in self._in_use if number not in owned]:
            self._kept.pop(number, None)  # it was on its way from the one to the other
            self.free(number)
        for number in [number for number in self._kept if number not in self.executor.slots]:
            self._drop(number)

    # --- how ---

    def _nearest(self, ids: np.ndarray) -> tuple[Held | None, int, int]:
        """The slot with most of a prompt's tokens that may be used and to which it can be cut back, how many they are,
        and of how many a request that is running will have computed as many as are the same.
        """
        best: Held | None = None
        length, promised, tests = 0, 0, 0
        patient = self.executor.rollback is None  # a slot that has gone on can still be cut back
        for agreed, numbers in self._prefixes.near(ids[:-1]):
            if length >= agreed + BLOCK or tests > TESTS:
                break
            for number in numbers:
                tests += 1
                if tests > TESTS:
                    break
                held = self._kept.get(number) or self._in_use[number]
                common = agreement(held.token_ids, ids[:-1])
                there = min(common, held.reusable, self.executor.length(number))
                if self.chunk is not None:
                    there, common = there // self.chunk * self.chunk, common // self.chunk * self.chunk
                if number in self._in_use and patient:
                    promised = max(promised, int(min(common, held.reusable)))
                better = there > length or (there == length > 0 and self._lost(held, there) < self._lost(best, there))
                if better and self.executor.reaches(number, int(there)):
                    best, length = held, int(there)
        return best, length, promised

    def _go_on(self, source: Held, length: int, first: int) -> int:
        """A slot with the source's first tokens: the source itself where little is lost or there is no other way, else
        a copy; where it is too small, a copy with room to grow, so that a conversation is seldom copied.
        """
        if source.number not in self._kept:
            return self._claim(lambda: self.executor.fork(source.number, first, length), first)
        over = self._lost(source, length) * LITTLE <= length
        if not over:
            try:
                return self._claim(lambda: self.executor.fork(source.number, first, length), first, but=source)
            except MemoryError:
                over = True
        if first <= source.capacity:
            self._in_use[source.number] = source
            del self._kept[source.number]
            self._prefixes.remove(source.number)
            self.executor.truncate(source.number, length)
            return source.number
        for room in (max(first, min(2 * source.capacity, self.context_len)), first):
            with contextlib.suppress(NoRoom):
                number = self._claim(
                    lambda room=room: self.executor.fork(source.number, room, length), room, but=source
                )
                self._drop(source.number)
                return number
        raise NoRoom(f"no room for {first} tokens beside the {source.capacity} that they go on from")

    def _lost(self, held: Held | None, length: float) -> float:
        """Tokens that nobody would have any more if a slot were cut back to so many; of one in use it cannot be."""
        return len(held.token_ids) - length if held is not None and held.number in self._kept else math.inf

    def _within(self, held: Held) -> list[int]:
        """Kept slots all of whose tokens another one has, as reusable as there."""
        least = [number for _, numbers in self._prefixes.near(held.token_ids) for number in numbers][:TESTS]
        return [
            number
            for number in least
            if (other := self._kept.get(number)) is not None
            and other is not held
            and other.reusable <= held.reusable
            and agreement(other.token_ids, held.token_ids) == len(other.token_ids)
        ]

    def _claim(self, make: Callable[[], int], capacity: int, *, but: Held | None = None) -> int:
        """A new slot of the executor's, noted before anything can interrupt; what is kept gives way to it.

        Raises: NoRoom, and as the executor does where it has no memory even so.
        """
        room = self.memory - self.used - self.bytes_of(capacity)
        if room < (0 if but is None else self.bytes_of(but.capacity)):
            raise NoRoom(f"no room for a slot of {capacity} tokens in {self.memory:,.0f} bytes")
        self.shrink(room, but=but)
        before = set(self.executor.slots)
        try:
            try:
                number = make()
            except MemoryError:
                if not any(held is not but for held in self._kept.values()):
                    raise
                self.shrink(0, but=but)
                number = make()
            self._in_use[number] = Held(number, capacity, np.empty(0, np.int64), 0)
            return number
        except BaseException:
            for number in set(self.executor.slots) - before:
                self.executor.free(number)
                self._in_use.pop(number, None)
            raise

    def _uses(self, slot: int, ids: np.ndarray) -> None:
        """A slot is a request's now: others with the same beginning go on from it, as far as it has come."""
        held = self._in_use[slot]
        held.token_ids = ids
        held.reusable = len(ids) if self.chunk is None else len(ids) // self.chunk * self.chunk
        self._prefixes.add(slot, ids)

    def _drop(self, number: int) -> None:
        self._prefixes.remove(number)
        if number in self.executor.slots:
            self.executor.free(number)
        del self._kept[number]

    def _round(self, capacity: int) -> int:
        """A little more, so that few sizes are asked for."""
        return min(-(-capacity // SPARE) * SPARE, max(self.context_len, capacity))
