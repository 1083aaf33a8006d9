"""``DraftModel``: a small model that guesses how a large one's answers go on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from pellucid.base.errors import ConfigError
from pellucid.config import ModelConfig
from pellucid.executor import Executor, StepInput
from pellucid.generate.sequence import Sequence
from pellucid.generate.slots import NoRoom, Slots
from pellucid.generate.speculate import check_most
from pellucid.sampling import SamplingState, sample

PADDING = 128  # rows by which models with one tokenizer may differ; Qwen2.5's sizes do
SHARE = 4  # of the memory that is free, one part in so many is for guesses
CHUNK = 512  # tokens of a prompt that are computed at a time


@dataclass
class _Draft:
    slot: int
    ids: list[int]  # that the slot holds: the sequence's, and guesses after them
    sure: int = 0  # of these, the sequence's


class DraftModel:
    """Guesses the tokens that another model with the same vocabulary chooses, by the same rules and with the same
    random numbers.

    So where two models agree on the distribution they draw the same token. The draft owns its executor meanwhile; its
    slots follow the engine's, and its prompts are computed when the first guess is due, after the first token. Source:
    Leviathan et al. 2023.
    """

    def __init__(self, executor: Executor, most: int = 7, *, max_slots: int = 16) -> None:
        self.executor, self.most, self.max_slots = executor, check_most(most), max_slots
        if executor.rollback is not None:
            self.most = min(most, executor.rollback)
        if not self.most:
            raise ConfigError(
                "this model cannot guess for another: a layer's state cannot take a wrong guess back",
                where=executor.config.model_type,
            )
        self.context_len, self.vocab_size = executor.config.longest_context, executor.config.vocab_size
        self._slots = Slots(executor, self.context_len, chunk=None, most_kept=max_slots)
        self._slots.memory = max(executor.free_bytes, 0) // SHARE
        self._drafts: dict[Sequence, _Draft] = {}

    def check(self, config: ModelConfig) -> None:
        if abs(config.vocab_size - self.vocab_size) > PADDING:
            raise ConfigError(
                "the draft model has another vocabulary",
                expected=f"{config.vocab_size:,} tokens, as the model",
                received=f"{self.vocab_size:,}",
                remedy="take a smaller model of the same family, or the same model in fewer bits",
            )
        self.vocab_size = min(self.vocab_size, config.vocab_size)

    def guess(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        pending: dict[Sequence, list[int]] = {}
        for sequence, most in wanted.items():
            with suppress(NoRoom):  # nothing is guessed for it
                if self._understands(sequence):
                    pending[sequence] = self._catch_up(sequence, most)
        guesses: dict[Sequence, list[int]] = {sequence: [] for sequence in pending}
        states = {sequence: sequence.state.ahead() for sequence in pending if not sequence.state.params.plain_greedy}
        while pending:
            logits = self.executor.step(
                [StepInput(self._drafts[sequence].slot, ids, (len(ids) - 1,)) for sequence, ids in pending.items()]
            )
            rows, best = logits.numpy() if states else np.empty(0), logits.argmax()
            following: dict[Sequence, list[int]] = {}
            for row, (sequence, ids) in enumerate(pending.items()):
                draft, state = self._drafts[sequence], states.get(sequence)
                draft.ids += ids
                token = int(best[row]) if state is None else _draw(rows[row], state)
                if token >= self.vocab_size:
                    continue
                guesses[sequence].append(token)
                if len(guesses[sequence]) < wanted[sequence] and self._slots.room(draft.slot) > 0:
                    following[sequence] = [token]
            pending = following
        return guesses

    def release(self, sequence: Sequence) -> None:
        if draft := self._drafts.pop(sequence, None):
            self._slots.keep(draft.slot, draft.ids, len(draft.ids))

    def forget(self) -> None:
        self._slots.reclaim({draft.slot for draft in self._drafts.values()})
        self._slots.shrink()

    def _catch_up(self, sequence: Sequence, most: int) -> list[int]:
        """Take back wrong guesses; compute the sequence's tokens but for the last few, which are returned. Raises:
        NoRoom for so many guesses.
        """
        ids, capacity = sequence.all_ids, min(sequence.capacity, self.context_len)
        draft = self._drafts.get(sequence)
        if draft is None:
            taken = self._slots.take(ids, capacity, least=len(ids))
            assert taken is not None
            slot, held = taken
            draft = self._drafts[sequence] = _Draft(slot, ids[:held].tolist())
        else:
            right = draft.sure
            while right < len(draft.ids) and draft.ids[right] == ids[right]:
                right += 1
            self.executor.truncate(draft.slot, right)
            del draft.ids[right:]
        needed = min(len(ids) + most, capacity)
        if self._slots.room(draft.slot) < needed - len(draft.ids):
            draft.slot = self._slots.grow(draft.slot, needed, capacity)
        draft.sure = len(ids)
        while len(ids) - len(draft.ids) > CHUNK:
            chunk = ids[len(draft.ids) : len(draft.ids) + CHUNK].tolist()
            self.executor.step([StepInput(draft.slot, chunk, ())])
            draft.ids += chunk
        return ids[len(draft.ids) :].tolist()

    def _understands(self, sequence: Sequence) -> bool:
        """Whether all of the sequence's tokens are the draft's, too, and there is room for them."""
        ids, biased = sequence.all_ids, max(sequence.state.params.logit_bias, default=0)
        return len(ids) <= self.context_len and max(int(ids.max()), biased) < self.vocab_size


def _draw(logits: np.ndarray, state: SamplingState) -> int:
    token = sample(logits, state)
    state.append(token)
    return token
