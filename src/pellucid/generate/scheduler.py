"""``Scheduler``: who takes part in the next step."""

from __future__ import annotations

from collections import deque

from pellucid.executor import StepInput
from pellucid.generate.sequence import Sequence


class Scheduler:
    """First come, first served: every answer that is being written gets its next token, then prompts advance by whole
    chunks.

    A step runs at most ``max_batch`` sequences and ``max_tokens_per_step`` tokens. A chunk is never made smaller to
    fit: it waits, because where a prompt is cut must not depend on who else is here. ``max_tokens_per_step`` holds a
    decode of every sequence, with its guesses, and one chunk, so the first prompt in line always advances.
    """

    def __init__(self, max_batch: int, prefill_chunk: int, max_tokens_per_step: int) -> None:
        self.max_batch, self.prefill_chunk, self.max_tokens_per_step = max_batch, prefill_chunk, max_tokens_per_step
        self.waiting: deque[Sequence] = deque()  # each with the siblings of its request
        self.running: list[Sequence] = []  # in order of admission

    def admit(self) -> Sequence | None:
        """The next waiting sequence, now running, if it and its siblings have places."""
        if not self.waiting or 1 + len(self.waiting[0].siblings) > self.max_batch - self.places_taken:
            return None
        self.running.append(self.waiting.popleft())
        return self.running[-1]

    def next_batch(self) -> list[tuple[Sequence, StepInput]]:
        """The sequences of the next step, and what each has computed."""
        batch = [(sequence, sequence.next_input(1)) for sequence in self.running if not sequence.in_prefill]
        budget = self.max_tokens_per_step - sum(len(inputs.token_ids) for _, inputs in batch)
        for sequence in self.running:
            if sequence.in_prefill:
                inputs = sequence.next_input(self.prefill_chunk)
                if len(inputs.token_ids) > budget:
                    break
                batch.append((sequence, inputs))
                budget -= len(inputs.token_ids)
        return batch

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
