"""``Core``: an engine's work, step by step: who gets a slot, who gives one up, what is computed, who has ended."""

from __future__ import annotations

import contextlib
import time

from pellucid.base.errors import DeadlineError
from pellucid.base.notice import notice
from pellucid.executor import Executor
from pellucid.generate.choosing import Batch, Choosing
from pellucid.generate.mail import Mail
from pellucid.generate.result import FinishReason
from pellucid.generate.scheduler import Scheduler
from pellucid.generate.sequence import Sequence
from pellucid.generate.slots import NoRoom, Slots
from pellucid.generate.speculate import Speculator

# Rows beyond which a step computes no guesses. On a CPU, a row costs nearly as much beside sixteen others as it would
# by itself.
GUESSING_ROWS = 16


class Core:
    """One thread's at a time. What happens goes into the mail."""

    def __init__(
        self,
        executor: Executor,
        scheduler: Scheduler,
        slots: Slots,
        speculate: Speculator | None,
        mail: Mail,
        *,
        reuse: bool,
    ) -> None:
        self.executor, self.scheduler, self.slots, self.speculate = executor, scheduler, slots, speculate
        self.mail, self.reuse = mail, reuse
        self.preempted = 0  # times that a request gave its slot up to an older one
        self._choosing = Choosing(executor, mail.tell, self.release, self._part)

    def step(self) -> None:
        """What interrupts it is raised on and ends those that were running; no slot is lost, and each is told of."""
        try:
            self._end_late()
            self._admit()
            self._guess()
            self._make_room()
            if batch := self.scheduler.next_batch():
                started = time.perf_counter()
                self._run(batch)
                self._measure(batch, time.perf_counter() - started)
        except BaseException as error:
            for sequence in list(self.scheduler.running):
                self.drop(sequence, "error" if isinstance(error, Exception) else "cancelled", error)
            self.slots.reclaim(())
            raise

    # --- who runs ---

    def _end_late(self) -> None:
        for sequence in [*self.scheduler.waiting, *self.scheduler.running]:
            limit = sequence.request.deadline
            if limit is not None and sequence.waited > limit:
                received = f"{len(sequence.token_ids)} tokens by then"
                self.drop(sequence, "error", DeadlineError("no time left", expected=f"{limit:g} s", received=received))

    def _admit(self) -> None:
        """Give waiting requests their places and slots, as far as there are any."""
        for sequence in self.scheduler.candidates():
            if not self.scheduler.has_place(sequence) and not self._make_place(sequence):
                if self.scheduler.places_taken >= self.scheduler.max_batch:
                    return
                sequence.lacks_room = True
                continue
            alone = not self.scheduler.running
            ids = sequence.request.prompt_ids if self.slots.chunk is not None else sequence.all_ids
            least = None if sequence.roomy else len(sequence.all_ids)
            wait = self.reuse and not alone
            try:
                taken = self.slots.take(ids, sequence.capacity, least=least, whole=sequence.whole, may_wait=wait)
                if taken is not None:
                    sequence.start(*taken)
                    self.scheduler.begin(sequence)
            except MemoryError as error:
                sequence.lacks_room = True
                if alone:
                    self.drop(sequence, "error", error)
            except Exception as error:
                self.drop(sequence, "error", error)

    def _make_place(self, sequence: Sequence) -> bool:
        """A request of lower priority gives its place up."""
        while not self.scheduler.has_place(sequence) and self.scheduler.running:
            youngest = self.scheduler.running[-1]
            if youngest.request.priority <= sequence.request.priority:
                return False
            self._preempt(youngest)
        return True

    def _guess(self) -> None:
        """Guess on for every answer that is being written, as far as its pace and the step's rows allow. A speculator
        that fails is let go: guesses save time, and nothing else depends on them.
        """
        if self.speculate is None:
            return
        decoding = [sequence for sequence in self.scheduler.running if not sequence.in_prefill]
        share = min(GUESSING_ROWS // max(len(decoding), 1) - 1, self.speculate.most)
        if self.executor.rollback is not None:
            share = min(share, self.executor.rollback)
        wanted = {sequence: min(sequence.pace.next(), share, sequence.room_for_guesses) for sequence in decoding}
        try:
            guesses = self.speculate.guess({sequence: most for sequence, most in wanted.items() if most > 0})
        except Exception as error:
            notice(f"answers are not guessed ahead any more: {type(error).__name__}: {error}")
            failed, self.speculate, guesses = self.speculate, None, {}
            for sequence in [*self.scheduler.running, *self.scheduler.waiting]:
                with contextlib.suppress(Exception):
                    failed.release(sequence)
            with contextlib.suppress(Exception):
                failed.forget()
        for sequence in decoding:
            sequence.guess_ahead(guesses.get(sequence, []))

    def _make_room(self) -> None:
        """Each answer that is being written gets room for its next tokens, the oldest first; where there is none, the
        youngest request gives its slot up and waits.
        """
        for sequence in list(self.scheduler.running):
            while sequence.slot is not None and not sequence.in_prefill:
                needed = 1 + len(sequence.guess)
                if self.slots.room(sequence.slot) >= needed:
                    break
                try:
                    least = sequence.computed + needed
                    sequence.slot = self.slots.grow(sequence.slot, least, sequence.capacity)
                except MemoryError as error:
                    youngest = self.scheduler.running[-1]
                    if youngest is not sequence:
                        self._preempt(youngest)
                    elif sequence.roomy and not isinstance(error, NoRoom):
                        self.drop(sequence, "error", error)
                    else:  # it is not copied to a larger slot, but computed again in one
                        sequence.roomy = len(self.scheduler.running) == 1
                        self._preempt(sequence)
                except Exception as error:
                    self.drop(sequence, "error", error)

    def _preempt(self, sequence: Sequence) -> None:
        """Its slot is given up, and it waits; then it goes on with the same tokens."""
        slot = sequence.slot
        sequence.restart()
        self.scheduler.wait(sequence)
        if slot is not None:
            self.slots.free(slot)
        self.preempted += 1

    # --- what is computed ---

    def _run(self, batch: Batch) -> None:
        """Logits for answers, and hidden states for prompts that get none."""
        written = [(sequence, inputs) for sequence, inputs in batch if sequence.request.pooling is None]
        pooled = [(sequence, inputs) for sequence, inputs in batch if sequence.request.pooling is not None]
        errors = [self._run_alike(part) for part in (written, pooled) if part]
        if all(errors):  # nothing could be computed at all: whoever steps hears of it, too
            raise next(error for error in errors if error is not None)

    def _run_alike(self, batch: Batch) -> Exception | None:
        """Where a step fails, its parts are tried by themselves: the answers that are being written, then each of them,
        and each prompt. What fails alone ends with its error; where all do, it is returned.
        """
        try:
            inputs = [inputs for _, inputs in batch]
            if batch[0][0].request.pooling is None:
                self._choosing.tokens(batch, self.executor.step(inputs))
            else:
                self._choosing.vectors(batch, self.executor.hidden(inputs))
            return None
        except Exception as error:
            if len(batch) == 1:
                self.drop(batch[0][0], "error", error)
                return error
        left = [sequence for sequence, _ in batch if self._intact(sequence)]
        parts = [[sequence] for sequence in left if sequence.in_prefill]
        if writing := [sequence for sequence in left if not sequence.in_prefill]:
            parts[:0] = [writing] if parts else [[sequence] for sequence in writing]
        sizes = {sequence: len(inputs.token_ids) for sequence, inputs in batch}
        for sequence in writing:
            sequence.guess = []
        errors = [self._run_alike([(one, one.next_input(sizes[one])) for one in part]) for part in parts]
        return next((error for error in errors if error is not None), None) if all(errors) else None

    def _intact(self, sequence: Sequence) -> bool:
        """Whether a slot is as it was before a step that failed; else it was emptied, and its sequence waits."""
        if sequence.slot is not None and self.executor.length(sequence.slot) == sequence.computed:
            return True
        self._preempt(sequence)
        return False

    def _measure(self, batch: Batch, seconds: float) -> None:
        answers = sum(1 for _, inputs in batch if len(inputs.token_ids) == 1 or inputs.one_by_one)
        rows = sum(len(inputs.token_ids) for _, inputs in batch if not inputs.one_by_one)
        self.scheduler.tempo.measure(seconds, answers, max(rows - answers, 0))

    def _part(self, sequence: Sequence) -> list[Sequence]:
        """The prompt is computed once: its other answers go on from copies of the slot. Where there is no room for one,
        it waits as if it had come by itself.
        """
        parted = []
        while sequence.siblings:
            sibling = sequence.siblings[0]
            sibling.prompt_logprobs = sequence.prompt_logprobs
            assert sequence.slot is not None
            try:
                sibling.branch(sequence, self.slots.fork(sequence.slot, sibling.capacity))
                self.scheduler.begin(sibling)
                parted.append(sibling)
            except MemoryError:
                self.scheduler.wait(sibling)
            except Exception as error:
                self.mail.tell(sibling.abandon("error", error))
            sequence.siblings.pop(0)
        return parted

    # --- who has ended ---

    def drop(self, sequence: Sequence, reason: FinishReason, error: BaseException | None = None) -> None:
        """End a sequence, and siblings that have not parted from it, before their time. What had ended already and was
        interrupted before anybody was told is told.
        """
        every = (sequence, *sequence.siblings)
        for one in every:
            if one.last is None:
                self.mail.tell(one.abandon(reason, error if isinstance(error, Exception) else None))
            elif not self.mail.told(one.last):
                self.mail.tell(one.last)
        sequence.siblings = []
        for one in every:
            self.release(one)

    def release(self, sequence: Sequence) -> None:
        """A sequence has ended: what it had is kept for others, or given back."""
        self.scheduler.remove(sequence)
        if sequence.slot is not None:
            slot, sequence.slot = sequence.slot, None
            answer = sequence.answer
            if self.reuse and answer is not None and answer.error is None:
                prompt = min(len(sequence.request.prompt_ids), sequence.computed)
                self.slots.keep(slot, sequence.all_ids[: sequence.computed], prompt)
            else:
                self.slots.free(slot)
        if self.speculate is not None:
            with contextlib.suppress(Exception):  # what it has lost is its own
                self.speculate.release(sequence)
        if sequence.request_id not in self.scheduler.requests:
            self.mail.over(sequence.request_id)
