"""``Scheduler``: who takes part in the next step."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator

from pellucid.executor import StepInput
from pellucid.generate.sequence import Sequence
from pellucid.generate.tempo import Tempo

PATIENCE = 8  # times that one who waits for room is passed by others who need less
LOOKED_AT = 32  # of those that wait, in a step
SCORED = 64  # tokens of a prompt at a time all of whose logits are wanted: a row of each is half a megabyte


class Scheduler:
    """Every answer that is being written gets its next token, then prompts advance.

    A step runs at most ``max_batch`` sequences and ``max_tokens_per_step`` tokens; beside answers, prompts get no more
    time than ``tempo`` allows. Where ``whole_chunks``, a prompt advances to the next multiple of ``prefill_chunk`` or
    not at all, because where it is cut must not depend on who else is here; a chunk that takes longer than allowed
    comes so much more seldom. Else the one that came first gets half of the tokens at least, and the rest goes to those
    who need least. ``max_tokens_per_step`` holds a decode of every sequence, with its guesses, and one chunk, so the
    first prompt in line always advances.
    """

    def __init__(
        self, max_batch: int, prefill_chunk: int, max_tokens_per_step: int, tempo: Tempo, *, whole_chunks: bool
    ) -> None:
        self.max_batch, self.prefill_chunk, self.max_tokens_per_step = max_batch, prefill_chunk, max_tokens_per_step
        self.tempo, self.whole_chunks = tempo, whole_chunks
        self.waiting: list[Sequence] = []  # each with the siblings of its request; in their ``order``
        self.running: list[Sequence] = []  # likewise
        self._saved = 0  # tokens that prompts were allowed and did not use: what a whole chunk waits for

    # --- who has a place ---

    def wait(self, sequence: Sequence) -> None:
        """It has no place, or none any more."""
        if sequence not in self.waiting:
            insort(self.waiting, sequence, key=lambda one: one.order)
        if sequence in self.running:
            self.running.remove(sequence)

    def begin(self, sequence: Sequence) -> None:
        """It has a place and a slot; who came before it and has none was passed."""
        insort(self.running, sequence, key=lambda one: one.order)
        if sequence in self.waiting:
            for other in self.waiting[: self.waiting.index(sequence)]:
                other.passed += other.lacks_room
            self.waiting.remove(sequence)
        sequence.lacks_room, sequence.passed = False, 0

    def candidates(self) -> Iterator[Sequence]:
        """Those that wait, in their order. Nobody comes after one who has been passed too often."""
        most = 0
        for sequence in self.waiting[:LOOKED_AT]:
            if most >= PATIENCE:
                return
            yield sequence
            most = max((one.passed for one in self.waiting[:LOOKED_AT]), default=0)

    def has_place(self, sequence: Sequence) -> bool:
        """Whether it and its siblings may run beside the others."""
        return 1 + len(sequence.siblings) <= self.max_batch - self.places_taken

    @property
    def places_taken(self) -> int:
        """Of ``max_batch``: by what runs, and by what will part from it."""
        return sum(1 + len(sequence.siblings) for sequence in self.running)

    @property
    def requests(self) -> set[int]:
        """Ids of those that wait or run."""
        return {sequence.request_id for line in (self.waiting, self.running) for sequence in line}

    def remove(self, sequence: Sequence) -> None:
        for line in (self.waiting, self.running):
            if sequence in line:
                line.remove(sequence)

    # --- who does what ---

    def next_batch(self) -> list[tuple[Sequence, StepInput]]:
        """The sequences of the next step, and what each has computed."""
        batch = [(sequence, sequence.next_input(1)) for sequence in self.running if not sequence.in_prefill]
        reading = [sequence for sequence in self.running if sequence.in_prefill]
        room = self.max_tokens_per_step - sum(len(inputs.token_ids) for _, inputs in batch)
        if not reading:
            self._saved = 0
        elif self.whole_chunks:
            batch += self._whole_chunks(reading, room, self.tempo.tokens() if batch else room)
        else:
            batch += self._slices(reading, min(room, self.tempo.tokens()) if batch else room)
        return batch

    def _whole_chunks(self, reading: list[Sequence], room: int, allowed: int) -> list[tuple[Sequence, StepInput]]:
        self._saved = min(self._saved + allowed, max(allowed, self.prefill_chunk))
        batch = []
        for sequence in reading:
            inputs = sequence.next_input(self.prefill_chunk)
            if len(inputs.token_ids) > min(room, self._saved):
                break
            batch.append((sequence, inputs))
            room -= len(inputs.token_ids)
            self._saved -= len(inputs.token_ids)
        return batch

    def _slices(self, reading: list[Sequence], room: int) -> list[tuple[Sequence, StepInput]]:
        share = {reading[0]: min(self._most(reading[0]), -(-room // 2))}
        room -= share[reading[0]]
        for sequence in sorted(reading, key=lambda one: one.ahead):  # as they are in order where they are equal
            before = share.get(sequence, 0)
            share[sequence] = min(self._most(sequence), before + room)
            room -= share[sequence] - before
        return [(sequence, sequence.next_input(share[sequence])) for sequence in reading if share[sequence]]

    def _most(self, sequence: Sequence) -> int:
        scored = sequence.whole and sequence.request.pooling is None
        return min(sequence.ahead, self.prefill_chunk, SCORED if scored else self.prefill_chunk)
