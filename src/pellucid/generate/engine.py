"""``Engine``: many requests, one model. Requests join and leave between steps; one ``step`` is all there is to see."""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pellucid.base.errors import ConfigError, NotFiniteError, RequestError
from pellucid.base.notice import notice
from pellucid.defaults import AnswerDefaults
from pellucid.executor import Executor, Logits, StepInput
from pellucid.generate.request import Pooling, Request
from pellucid.generate.result import Event, FinishReason, Result
from pellucid.generate.scheduler import Scheduler
from pellucid.generate.sequence import Sequence
from pellucid.generate.slots import Slots
from pellucid.generate.speculate import Speculator
from pellucid.generate.stream import Stream
from pellucid.sampling import fresh_seed
from pellucid.text.detokenizer import IncrementalDetokenizer

if TYPE_CHECKING:
    from pellucid.text.tokenizer import Tokenizer

# Rows beyond which a step computes no guesses. On a CPU, a row costs nearly as much beside sixteen others as it would
# by itself.
GUESSING_ROWS = 16
MAX_CONTEXT = 2**30


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


class Engine:
    """Answers requests with one executor, which it owns meanwhile.

    Any thread may ``add`` and ``cancel``; what they ask for happens at the top of the next ``step``. Any thread may
    step, read a stream or ``close``: one at a time does.

    A request's greedy tokens, and for a given seed its sampled ones, are the same alone and in any company, as far as
    the executor's numbers are: each has its own slot, its own random numbers, and chunks that are cut by its own prompt
    alone.

    What answers have computed is kept when they end, in the slots that others do not need, and a prompt that begins
    alike goes on from there (``reuse``): a conversation's next turn computes what is new in it. The tokens are the same
    as without. Where the model's weights change, ``forget`` what was computed with the old ones.

    ``max_batch``: answers written at a time, and slots in all. ``prefill_chunk``: tokens of a prompt computed in one
    step; None: 512, or 128 where only whole chunks can be reused. ``max_tokens_per_step``: tokens of all requests in
    one step; more than its least lets several prompts advance together. ``context_len``: tokens of prompt and answer
    together; None: as many as the model was made for (``ModelConfig.longest_context``). ``speculate``: guesses tokens
    ahead (``PromptLookup``, ``DraftModel``). With a tokenizer, events carry text. ``defaults`` is what the checkpoint
    asks for where a request says nothing.
    """

    def __init__(
        self,
        executor: Executor,
        tokenizer: Tokenizer | None = None,
        *,
        max_batch: int = 16,
        prefill_chunk: int | None = None,
        max_tokens_per_step: int | None = None,
        context_len: int | None = None,
        reuse: bool = True,
        speculate: Speculator | None = None,
    ) -> None:
        config = executor.config
        made_for, by_length = config.longest_context, config.rotates_by_length
        # a table of positions has so many rows; rotary angles can be computed for any
        longest = made_for if config.position != "none" else MAX_CONTEXT
        _check("context_len", made_for if context_len is None else context_len, 1, longest)
        if context_len is not None and context_len > made_for:
            notice(f"a context of {context_len:,} tokens is more than the {made_for:,} that this model was made for")
        self.context_len = context_len or made_for
        if by_length:  # a prompt's frequencies follow from its whole length, so it is computed whole
            prefill_chunk = self.context_len
        elif prefill_chunk is None:
            prefill_chunk = 128 if executor.splits_matter else 512
        if speculate is not None:
            speculate.check(config)
            if executor.rollback == 0:
                raise ConfigError(
                    "answers cannot be guessed ahead: a layer's state cannot take a wrong guess back",
                    where=executor.config.model_type,
                    remedy="run it without prompt lookup and without a draft model",
                )
        least = (max_batch if speculate is None else max(max_batch, GUESSING_ROWS)) + prefill_chunk
        _check("max_batch", max_batch, 1)
        _check("prefill_chunk", prefill_chunk, 1)
        _check("max_tokens_per_step", least if max_tokens_per_step is None else max_tokens_per_step, least)
        self.executor, self.tokenizer = executor, tokenizer
        self.defaults = AnswerDefaults.of(config, executor.generation_config, tokenizer)
        self._speculate, self._reuse = speculate, reuse
        self._scheduler = Scheduler(max_batch, prefill_chunk, max_tokens_per_step or least)
        self._slots = Slots(executor, self.context_len, prefill_chunk if by_length or executor.splits_matter else None)
        self._ids = itertools.count()
        self._inbox: deque[Sequence | int] = deque()  # what to add, and ids to cancel
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()  # rung for whoever waits for that
        self._events: deque[Event] = deque()  # that happened and that nobody has been told yet
        self._mail: dict[int, deque[Event] | None] = {}  # request → its reader's events; None: the reader is gone
        self._lock, self._door = threading.RLock(), threading.Lock()  # held by who steps; by who adds or closes
        self._at_work = self._closed = False

    def add(self, request: Request) -> int:
        """Put a request in line, from any thread. Returns its id, which its events carry.

        Raises: RequestError or ContextLengthError where this engine cannot answer it; nothing has changed then.
        """
        return self._add(request, None)

    def cancel(self, request_id: int) -> None:
        """End a request wherever it is, from any thread; its last events come with the next step. One that is finished
        or unknown is left alone.
        """
        self._inbox.append(request_id)
        self._bell.put(None)

    def step(self) -> list[Event]:
        """Run the model once, advancing each request in the batch by a token or a chunk. Returns what happened; often
        nothing, in a prefill.

        What was added and cancelled until now takes effect first. Another thread's step is waited for. What interrupts
        it, an error of the executor or Ctrl-C, is raised on and ends the requests that were running (``error``,
        ``cancelled``). The engine stays usable: waiting requests go on with the next call, which also tells of those
        that ended.
        """
        with self._lock, self._working():
            self._step()
            events, self._events = self._events, deque()
            return list(events)

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until there is something to do, in the thread that steps. Returns whether there is."""
        with contextlib.suppress(queue.Empty):
            while not self.has_work and not self._closed:
                self._bell.get(timeout=timeout)
        return self.has_work

    def close(self) -> list[Event]:
        """Wait for a step that runs, end all requests (``cancelled``) and give their slots back. Returns what has not
        been told yet; nothing can be added any more, and no step made.
        """
        with self._door:
            self._closed = True
        with self._lock, self._working(closed=True):
            self._settle()
            for sequence in [*self._scheduler.waiting, *self._scheduler.running]:
                self._drop(sequence, "cancelled")
            self.forget()
            self._bell.put(None)
            events, self._events = self._events, deque()
            return list(events)

    def forget(self) -> None:
        """Free what is kept of answers that have ended."""
        self._slots.shrink(0)
        if self._speculate is not None:
            self._speculate.forget()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the executor may be closed, or the engine not have come to be
            self.forget()

    @property
    def has_work(self) -> bool:
        """Whether a step would have something to do or to tell."""
        return bool(self._inbox or self._scheduler.waiting or self._scheduler.running or self._events)

    def stream(self, request: Request) -> Stream:
        """Add a request and iterate over its events. Other requests advance along with it; their events wait for
        whoever asks for them.

        Leaving the loop early cancels the request.
        """
        return self._stream([request])[0]

    def run(self, requests: Iterable[Request]) -> list[Result]:
        """Answer all of them, in their order. Raises what ``add`` raises, before any work is done."""
        fitted = [self._fit(request) for request in requests]
        events, ids = self._stream(fitted)
        answers = {(event.request_id, event.index): event.answer for event in events if event.answer is not None}
        return [
            Result(
                prompt_ids=request.prompt_ids, answers=tuple(answers[request_id, index] for index in range(request.n))
            )
            for request_id, request in zip(ids, fitted, strict=True)
        ]

    def embed(self, prompts: Iterable[Collection[int]], pooling: Pooling = "last") -> np.ndarray:
        """The prompts' hidden states after the last norm, pooled: (N, D) float32. In a server, ``add`` requests with
        ``pooling`` instead: each one's answer has its ``embedding``.

        Raises: as ``add``; and what made one fail.
        """
        results = self.run([Request(prompt_ids=tuple(prompt), pooling=pooling) for prompt in prompts])
        rows = np.empty((len(results), self.executor.config.d_model), np.float32)
        for row, result in zip(rows, results, strict=True):
            if (error := result.answers[0].error) is not None:
                raise error
            row[:] = result.answers[0].embedding
        return rows

    # --- who reads what ---

    def _add(self, request: Request, mail: deque[Event] | None) -> int:
        request, request_id = self._fit(request), next(self._ids)
        seed = 0 if request.sampling is None else fresh_seed(request.sampling)
        first, *siblings = (
            Sequence(request_id, index, request, seed, self._detokenizer(request)) for index in range(request.n)
        )
        first.siblings = siblings
        with self._door:
            if self._closed:
                raise RequestError("this engine is closed", remedy="make another")
            if mail is not None:
                self._mail[request_id] = mail
            self._inbox.append(first)
        self._bell.put(None)
        return request_id

    def _stream(self, requests: list[Request]) -> tuple[Stream, list[int]]:
        mail: deque[Event] = deque()
        ids: list[int] = []
        try:
            for request in requests:
                ids.append(self._add(request, mail))
        except BaseException:
            self.leave(ids)
            raise
        return Stream(self, {id_: request.n for id_, request in zip(ids, requests, strict=True)}, mail), ids

    def advance(self, mail: deque[Event]) -> None:
        """A step for a stream's sake, unless another thread's has brought what it waits for; others' events wait."""
        with self._lock, self._working():
            if not mail:
                self._step()

    def leave(self, request_ids: Collection[int]) -> None:
        """A stream's reader is gone: its requests end, at once where nobody steps, and nobody is told."""
        for request_id in request_ids:
            self._mail[request_id] = None
            self.cancel(request_id)
        if self._lock.acquire(blocking=False):
            try:
                if not self._at_work:  # this very thread may be in a step, and this be a garbage collector's call
                    self._settle()
            finally:
                self._lock.release()

    @contextlib.contextmanager
    def _working(self, *, closed: bool = False) -> Iterator[None]:
        """Raises: RequestError where this thread is in a step already, and in an engine that is closed."""
        if self._at_work:
            raise RequestError("this engine is in a step already", remedy="let what a step calls not call it")
        if self._closed and not closed:
            raise RequestError("this engine is closed", remedy="make another")
        self._at_work = True
        try:
            yield
        finally:
            self._at_work = False

    def _tell(self, event: Event) -> None:
        mail = self._mail.get(event.request_id, self._events)
        if mail is not None:
            mail.append(event)

    # --- the parts of a step ---

    def _step(self) -> None:
        try:
            self._settle()
            self._admit()
            self._guess()
            if batch := self._scheduler.next_batch():
                self._run(batch)
        except BaseException as error:
            for sequence in list(self._scheduler.running):
                self._drop(sequence, "error" if isinstance(error, Exception) else "cancelled", error)
            raise

    def _settle(self) -> None:
        """What was added and cancelled since the last step, in that order."""
        while self._inbox:  # its head goes when it has taken effect, whatever interrupts this
            message = self._inbox[0]
            if not isinstance(message, Sequence):
                for sequence in [*self._scheduler.waiting, *self._scheduler.running]:
                    if sequence.request_id == message:
                        self._drop(sequence, "cancelled")
            elif message not in self._scheduler.waiting:
                self._scheduler.waiting.append(message)
            self._inbox.popleft()

    def _run(self, batch: list[tuple[Sequence, StepInput]]) -> None:
        """Logits for answers, and hidden states for prompts that get none."""
        pooled = [(sequence, inputs) for sequence, inputs in batch if sequence.request.pooling is not None]
        written = [(sequence, inputs) for sequence, inputs in batch if sequence.request.pooling is None]
        if written:
            self._choose(written, self.executor.step([inputs for _, inputs in written]))
        if pooled:
            states = self.executor.hidden([inputs for _, inputs in pooled])
            row = 0
            for sequence, inputs in pooled:
                sequence.computed += len(inputs.token_ids)
                self._pool(sequence, states[row : row + len(inputs.wanted)])
                row += len(inputs.wanted)

    def _admit(self) -> None:
        """Give waiting requests their places and slots; one that gets no slot (no memory) fails alone."""
        while (sequence := self._scheduler.admit()) is not None:
            try:
                sequence.start(*self._slots.take(sequence.request.prompt_ids, sequence.capacity, whole=sequence.whole))
            except Exception as error:
                self._drop(sequence, "error", error)
            self._make_room()

    def _make_room(self) -> None:
        """Slots that are kept give way to those that are needed, so that there are never more than ``max_batch``."""
        self._slots.shrink(self._scheduler.max_batch - self._scheduler.places_taken)

    def _guess(self) -> None:
        """Guess on for every answer that is being written, as far as its pace and the step's rows allow."""
        if self._speculate is None:
            return
        decoding = [sequence for sequence in self._scheduler.running if not sequence.in_prefill]
        share = min(GUESSING_ROWS // max(len(decoding), 1) - 1, self._speculate.most)
        if self.executor.rollback is not None:
            share = min(share, self.executor.rollback)
        wanted = {sequence: min(sequence.pace.next(), share, sequence.room_for_guesses) for sequence in decoding}
        guesses = self._speculate.guess({sequence: most for sequence, most in wanted.items() if most > 0})
        for sequence in decoding:
            sequence.guess_ahead(guesses.get(sequence, []))

    def _choose(self, batch: list[tuple[Sequence, StepInput]], logits: Logits) -> None:
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
                for member in () if sequence.in_prefill else (sequence, *self._part(sequence)):
                    self._choose_one(member, row + len(inputs.wanted) - 1, rows, best)
            else:
                self._follow(sequence, row, rows, best)
            row += len(inputs.wanted)

    def _follow(self, sequence: Sequence, row: int, rows: np.ndarray | None, best: Best | None) -> None:
        """The token after the last, and those after the guesses as long as these are right; what was computed for wrong
        ones is taken back.
        """
        right, guess = 0, sequence.guess
        sequence.pace.guessed += len(guess)
        while True:
            sequence.computed += 1
            token = self._choose_one(sequence, row + right, rows, best)
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
                self._drop(sequence, "error", error)

    def _pool(self, sequence: Sequence, states: np.ndarray) -> None:
        """Hidden states of a prompt's next places; a prompt that fails fails alone."""
        try:
            if not np.isfinite(states).all():
                raise self.executor.why_not_finite(sequence.all_ids[: sequence.computed].tolist())
            event = sequence.pool(states)
        except Exception as error:
            event = sequence.abandon("error", error)
        if event is not None:
            self._tell(event)
            self._release(sequence)

    def _choose_one(self, sequence: Sequence, row: int, rows: np.ndarray | None, best: Best | None) -> int | None:
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
        self._tell(event)
        if sequence.answer is not None:
            self._release(sequence)
        return event.token_id

    def _part(self, sequence: Sequence) -> list[Sequence]:
        """The prompt is computed once: its other answers go on from copies of the slot."""
        parted = []
        while sequence.siblings:
            sibling = sequence.siblings[0]
            assert sequence.slot is not None
            try:
                sibling.branch(sequence, self._slots.fork(sequence.slot, sibling.capacity))
                self._scheduler.running.append(sibling)
                parted.append(sibling)
            except Exception as error:
                self._tell(sibling.abandon("error", error))
            sequence.siblings.pop(0)
        return parted

    def _drop(self, sequence: Sequence, reason: FinishReason, error: BaseException | None = None) -> None:
        """End a sequence, and siblings that have not parted from it, before their time."""
        every = (sequence, *sequence.siblings)
        for one in every:
            self._tell(one.abandon(reason, error if isinstance(error, Exception) else None))
        sequence.siblings = []
        for one in every:
            self._release(one)

    def _release(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        if sequence.slot is not None:
            slot, sequence.slot = sequence.slot, None
            answer = sequence.answer
            if self._reuse and answer is not None and answer.error is None:
                prompt = len(sequence.request.prompt_ids)
                self._slots.keep(slot, sequence.all_ids[: sequence.computed], min(prompt, sequence.computed))
                self._make_room()
            else:
                self._slots.free(slot)
        if self._speculate is not None:
            self._speculate.release(sequence)
        if sequence.request_id in self._mail and sequence.request_id not in self._scheduler.requests:
            del self._mail[sequence.request_id]

    def _fit(self, request: Request) -> Request:
        """The request as this engine will run it. Raises: see ``add``."""
        request = request.fit(self.executor.config, self.context_len, self.defaults)
        if request.n > self._scheduler.max_batch:
            raise RequestError(
                "a request's answers are written together",
                expected=f"n of at most max_batch = {self._scheduler.max_batch}",
                received=request.n,
            )
        if request.stop and self.tokenizer is None:
            raise RequestError(
                "stop strings are looked for in text",
                received=repr(request.stop)[:80],
                remedy="give the tokenizer, too, or use stop_token_ids",
            )
        return request

    def _detokenizer(self, request: Request) -> IncrementalDetokenizer | None:
        if self.tokenizer is None:
            return None
        return IncrementalDetokenizer(self.tokenizer, request.skip_special_tokens, request.prompt_ids)


def _check(name: str, value: int, least: int, most: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        expected = (
            f"a whole number of at least {least}" if most == math.inf else f"a whole number from {least} to {most}"
        )
        raise RequestError(f"{name} is out of range", where="engine", expected=expected, received=repr(value))
