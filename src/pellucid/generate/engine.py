"""``Engine``: many requests, one model. Requests join and leave between steps; one ``step`` is all there is to see."""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from pellucid.base.errors import ConfigError, RequestError
from pellucid.base.notice import notice
from pellucid.base.typed import is_real
from pellucid.defaults import AnswerDefaults
from pellucid.executor import Executor
from pellucid.generate.core import GUESSING_ROWS, Core
from pellucid.generate.mail import Mail
from pellucid.generate.request import Pooling, Request
from pellucid.generate.result import Event, Result
from pellucid.generate.scheduler import Scheduler
from pellucid.generate.sequence import Sequence
from pellucid.generate.slots import Slots
from pellucid.generate.speculate import Speculator
from pellucid.generate.stream import Stream
from pellucid.generate.tempo import Tempo
from pellucid.sampling import fresh_seed
from pellucid.text.detokenizer import IncrementalDetokenizer

if TYPE_CHECKING:
    from pellucid.text.tokenizer import Tokenizer

MAX_CONTEXT = 2**30
SHARE = 0.8  # of the memory that is free at first, for slots; half of it may stay with answers that have ended
LEAST_CONTEXT = 1024  # for which there is room, whatever is free


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

    ``max_batch``: answers written at a time. ``prefill_chunk``: tokens of a prompt computed in one step, at most; None:
    512, or 128 where only whole chunks can be reused. ``max_tokens_per_step``: tokens of all requests in one step.
    ``context_len``: tokens of prompt and answer
    together; None: as many as the model was made for (``ModelConfig.longest_context``). ``speculate``: guesses tokens
    ahead (``PromptLookup``, ``DraftModel``). With a tokenizer, events carry text. ``defaults`` is what the checkpoint
    asks for where a request says nothing.

    ``memory``: bytes of all slots together, by default most of what is free now; who finds no room waits, and where an
    answer grows beyond it the youngest request gives its slot up and is computed again later, with the same tokens.
    ``kept_memory``: of these, for what ended answers have computed; ``most_kept``: of how many. ``step_seconds``: that
    prompts may add to a step in which answers are written (``Tempo``).
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
        memory: int | None = None,
        kept_memory: int | None = None,
        most_kept: int = 1024,
        step_seconds: float | None = None,
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
        for name, value in (("memory", memory), ("kept_memory", kept_memory), ("most_kept", most_kept)):
            _check(name, 0 if value is None else value, 0)
        if step_seconds is not None and not (is_real(step_seconds) and step_seconds > 0):
            raise RequestError("step_seconds is out of range", expected="more than 0", received=repr(step_seconds))
        _check("max_tokens_per_step", least if max_tokens_per_step is None else max_tokens_per_step, least)
        self.executor, self.tokenizer = executor, tokenizer
        self.defaults = AnswerDefaults.of(config, executor.generation_config, tokenizer)
        whole = by_length or executor.splits_matter
        slots = Slots(executor, self.context_len, prefill_chunk if whole else None, most_kept=most_kept)
        if memory is None:  # a machine with little is not refused: it may swap
            memory = max(int(SHARE * executor.free_bytes), slots.bytes_of(min(self.context_len, LEAST_CONTEXT)))
        slots.memory = memory
        slots.kept_memory = memory // 2 if kept_memory is None else kept_memory
        if (fits := slots.longest(self.context_len)) < self.context_len:
            self.context_len = slots.context_len = self._what_fits(fits, context_len, memory)
        scheduler = Scheduler(
            max_batch, prefill_chunk, max_tokens_per_step or least, Tempo(step_seconds), whole_chunks=whole
        )
        self._mail = Mail()
        self._core = Core(
            executor,
            scheduler,
            slots,
            speculate,
            self._mail,
            reuse=reuse,
        )
        self._ids = itertools.count()
        self._inbox: deque[Sequence | int] = deque()  # what to add, and ids to cancel
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()  # rung for whoever waits for that
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
            return self._mail.take()

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
            for sequence in [*self._core.scheduler.waiting, *self._core.scheduler.running]:
                self._core.drop(sequence, "cancelled")
            self.forget()
            self._bell.put(None)
            return self._mail.take()

    def forget(self, *, idle: float = 0) -> None:
        """Free what is kept of answers that have ended; only what nobody has used for so many seconds. By the thread
        that steps.
        """
        self._core.slots.shrink(idle=idle)
        if self._core.speculate is not None and not idle:
            self._core.speculate.forget()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the executor may be closed, or the engine not have come to be
            self.forget()

    @property
    def has_work(self) -> bool:
        """Whether a step would have something to do or to tell."""
        scheduler = self._core.scheduler
        return bool(self._inbox or scheduler.waiting or scheduler.running or self._mail.events)

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
                self._mail.read(request_id, mail)
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
            self._mail.leave(request_id)
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

    def _step(self) -> None:
        self._settle()
        self._core.step()

    def _settle(self) -> None:
        """What was added and cancelled since the last step, in that order."""
        while self._inbox:  # its head goes when it has taken effect, whatever interrupts this
            message, scheduler = self._inbox[0], self._core.scheduler
            if isinstance(message, Sequence):
                scheduler.wait(message)
            else:
                for sequence in [*scheduler.waiting, *scheduler.running]:
                    if sequence.request_id == message:
                        self._core.drop(sequence, "cancelled")
            self._inbox.popleft()

    def _what_fits(self, fits: int, asked: int | None, memory: int) -> int:
        """The context that the memory has room for. Raises: ConfigError where that is none, or less than was asked."""
        if fits < 2 or asked is not None:
            raise ConfigError(
                "there is no memory for such a context",
                expected=f"at most {fits:,} tokens in {memory / 2**30:.2f} GiB",
                received=f"{self.context_len:,}",
                remedy="a smaller context, or more memory (--memory)",
            )
        notice(f"the context is {fits:,} tokens: there is no memory for {self.context_len:,} (see --memory)")
        return fits

    def _fit(self, request: Request) -> Request:
        """The request as this engine will run it. Raises: see ``add``."""
        request = request.fit(self.executor.config, self.context_len, self.defaults)
        if request.n > self._core.scheduler.max_batch:
            raise RequestError(
                "a request's answers are written together",
                expected=f"n of at most max_batch = {self._core.scheduler.max_batch}",
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
