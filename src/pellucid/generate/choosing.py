"""``Choosing``: what a step has computed becomes tokens, and vectors where these are wanted."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Several
from dataclasses import dataclass

import numpy as np

from pellucid.base.errors import NotFiniteError
from pellucid.executor import Executor, Logits, StepInput
from pellucid.generate.result import Event
from pellucid.generate.sequence import Sequence

Batch = Several[tuple[Sequence, StepInput]]


@dataclass(frozen=True)
class Best:
    """The largest logit of each row."""

    token_ids: np.ndarray
    values: np.ndarray

    def token(self, row: int) -> int:
        """Raises: NotFiniteError, where the row holds a NaN or an infinity (or nothing but −∞)."""
        if not math.isfinite(self.values[row]):
            raise NotFiniteError("the model's logits are not finite", received=float(self.values[row]))
        return int(self.token_ids[row])


@dataclass
class Choosing:
    """``tell`` is told what happens, ``end`` of each sequence that has ended (with an error where there is one), and
    ``part`` gives those that go on from a prompt which has been computed.
    """

    executor: Executor
    tell: Callable[[Event], None]
    release: Callable[[Sequence], None]
    part: Callable[[Sequence], list[Sequence]]

    def tokens(self, batch: Batch, logits: Logits) -> None:
        """The next tokens of every sequence whose prompt is complete."""
        choosing = [sequence for sequence, inputs in batch if inputs.wanted]  # in the order of their rows
        rows = logits.numpy() if any(sequence.needs_logits for sequence in choosing) else None
        best = None if all(sequence.needs_logits for sequence in choosing) else Best(logits.argmax(), logits.peaks())
        row = 0
        for sequence, inputs in batch:
            if sequence.in_prefill:
                sequence.computed += len(inputs.token_ids)
                if sequence.whole and rows is not None:
                    sequence.score(rows[row : row + len(inputs.wanted)])
                for member in (sequence, *self.part(sequence)) if inputs.wanted and not sequence.in_prefill else ():
                    self._one(member, row + len(inputs.wanted) - 1, rows, best)
            else:
                self._follow(sequence, row, rows, best)
            row += len(inputs.wanted)

    def vectors(self, batch: Batch, states: np.ndarray) -> None:
        """Hidden states of the next places of prompts that are pooled; one that fails fails alone."""
        row = 0
        for sequence, inputs in batch:
            mine = states[row : row + len(inputs.wanted)]
            row += len(inputs.wanted)
            sequence.computed += len(inputs.token_ids)
            try:
                if not np.isfinite(mine).all():
                    raise self.executor.why_not_finite(sequence.all_ids[: sequence.computed].tolist())
                event = sequence.pool(mine)
            except Exception as error:
                event = sequence.abandon("error", error)
            if event is not None:
                self.tell(event)
                self.release(sequence)

    def _follow(self, sequence: Sequence, row: int, rows: np.ndarray | None, best: Best | None) -> None:
        """The token after the last, and those after the guesses as long as these are right; what was computed for wrong
        ones is taken back.
        """
        right, guess = 0, sequence.guess
        sequence.pace.guessed += len(guess)
        while True:
            sequence.computed += 1
            token = self._one(sequence, row + right, rows, best)
            if sequence.answer is not None or right == len(guess) or token != guess[right]:
                break
            right += 1
            sequence.pace.accepted += 1
        if guess:
            sequence.pace.adapt(len(guess), right)
        if right < len(guess) and sequence.slot is not None:
            try:
                self.executor.truncate(sequence.slot, sequence.computed)
            except Exception as error:  # an executor that cannot keep its word (``rollback``) costs this answer alone
                self.tell(sequence.abandon("error", error))
                self.release(sequence)

    def _one(self, sequence: Sequence, row: int, rows: np.ndarray | None, best: Best | None) -> int | None:
        """Choose a token by its row of logits, or their argmax. A sequence that fails (say, in its detokenizer) fails
        alone.
        """
        try:
            if rows is not None and sequence.needs_logits:
                event = sequence.choose(rows[row])
            else:
                assert best is not None
                event = sequence.accept(best.token(row))
        except NotFiniteError:
            ids = sequence.all_ids[: sequence.computed].tolist()
            event = sequence.abandon("error", self.executor.why_not_finite(ids))
        except Exception as error:
            event = sequence.abandon("error", error)
        self.tell(event)
        if sequence.answer is not None:
            self.release(sequence)
        return event.token_id
