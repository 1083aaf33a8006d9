"""``Worker``: a model's engine and the one thread that steps it; asyncio hands it requests and takes events.

The thread never waits for a client: what it has to tell is put into the event loop, where each request has a ``Stream``
that keeps it until somebody asks. A stream holds at most what its request may generate, so a slow reader costs memory
that is bounded, and nobody's time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pellucid.base.notice import notice
from pellucid.serve.http.errors import ApiError, busy
from pellucid.serve.work.metrics import Metrics

if TYPE_CHECKING:
    from pellucid.checkpoint.open import Checkpoint
    from pellucid.generate.engine import Engine
    from pellucid.generate.request import Request
    from pellucid.generate.result import Event
    from pellucid.text.tokenizer import Tokenizer


IDLE = 300.0  # seconds after which what an answer has computed is not kept any longer


class Loaded(Protocol):
    """A model that is ready to answer."""

    @property
    def checkpoint(self) -> Checkpoint: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def engine(self) -> Engine: ...


@dataclass
class _Sink:
    """Where the events of one of an engine's requests go."""

    stream: Stream
    first: int  # of its choices, in the stream
    unfinished: int


class Stream:
    """What a worker tells of one or several requests that were made together; lives in the event loop.

    ``batches`` yields ``[(choice, event), …]``, all that has come since the last; choices of several requests are
    numbered on.
    """

    def __init__(self, worker: Worker, requests: Sequence[Request]) -> None:
        self.worker, self.requests = worker, requests
        self.unfinished = sum(request.n for request in requests)
        self.error: BaseException | None = None
        self.told = 0  # events
        self.started_again = False
        self.accepted: asyncio.Future[None] = worker.loop.create_future()
        self._pending: deque[tuple[int, Event]] = deque()
        self._wake = asyncio.Event()
        self.closed = False

    async def batches(self) -> AsyncGenerator[list[tuple[int, Event]]]:
        """Raises: what ended the requests before their time."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._pending:
                batch = list(self._pending)
                self._pending.clear()
                yield batch
            if self.error is not None:
                raise self.error
            if not self.unfinished and not self._pending:
                return

    def put(self, events: list[tuple[int, Event]]) -> None:
        if self.closed:
            return
        self._pending.extend(events)
        self.told += len(events)
        self.unfinished -= sum(event.answer is not None for _, event in events)
        if not self.unfinished:
            self.worker.left(self)
        self._wake.set()

    def fail(self, error: BaseException) -> None:
        if not self.accepted.done():
            self.accepted.set_exception(error)
        if not self.closed:
            self.error = error
            self.worker.left(self)
            self._wake.set()

    def close(self) -> None:
        """Nobody listens any more: what is unfinished is cancelled."""
        if not self.closed:
            self.closed = True
            self._pending.clear()
            self.worker.cancel(self)
        if self.accepted.done() and not self.accepted.cancelled():
            self.accepted.exception()  # seen: no warning of an error that nobody fetched


class Worker:
    """``open`` loads the model, in the thread. Methods are the event loop's; those named ``_in_thread…`` are not.

    A step that fails ends the requests that it was for, and the engine goes on; where the next fails too, the model is
    loaded anew, and those whose answers had not begun start again.
    """

    def __init__(self, name: str, open: Callable[[], Loaded], max_batch: int, max_queue: int) -> None:
        self.name, self._open, self.max_batch, self.max_queue = name, open, max_batch, max_queue
        self.loop = asyncio.get_running_loop()
        self.loaded: Loaded | None = None  # until it is loaded, and where it could not be loaded again
        self.ready: asyncio.Future[None] = self.loop.create_future()
        self.metrics = Metrics()
        self.streams: set[Stream] = set()
        self.ending = False
        self._commands: list[tuple[str, Any]] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._in_thread, name=f"engine of {name}", daemon=True)
        self._sinks: dict[int, _Sink] = {}  # the thread's, by the engine's ids of requests
        self._thread.start()

    # --- the event loop's side ---

    @property
    def in_line(self) -> int:
        """Answers that are being written or wait to be."""
        return sum(stream.unfinished for stream in self.streams)

    async def submit(self, requests: Sequence[Request]) -> Stream:
        """Put requests in line. Raises: ApiError 429 where the line is full, 503 where the server ends; what the engine
        says of a request that it cannot answer.
        """
        if self.ending:
            raise busy("the server is ending", 5, status=503)
        in_line = self.in_line
        if in_line and in_line + sum(request.n for request in requests) > self.max_batch + self.max_queue:
            raise busy(
                f"{in_line} answers are in line before this one, which is as many as wait here",
                self.metrics.seconds_per_answer * self.max_queue / self.max_batch,
            )
        stream = Stream(self, requests)
        self.streams.add(stream)
        self._command("add", stream)
        try:
            await stream.accepted
        except BaseException:
            stream.close()
            raise
        return stream

    def cancel(self, stream: Stream) -> None:
        if stream in self.streams:
            self.left(stream)
            self._command("cancel", stream)

    def left(self, stream: Stream) -> None:
        self.streams.discard(stream)

    async def call(self, work: Callable[[Loaded], Any]) -> Any:
        """Run something with the engine, between two steps: its result. Raises: what it raises."""
        future: asyncio.Future[Any] = self.loop.create_future()
        self._command("call", (work, future))
        return await future

    def fail_all(self, error: BaseException) -> None:
        """End every answer with an error."""
        for stream in list(self.streams):
            stream.fail(error)
            self._command("cancel", stream)

    async def stop(self) -> None:
        """End what runs, and give the model back."""
        self.ending = True
        self.fail_all(busy("the server is ending", 5, status=503))
        self._command("stop", None)
        await asyncio.to_thread(self._thread.join)

    def _command(self, name: str, value: Any) -> None:
        with self._changed:
            self._commands.append((name, value))
            self._changed.notify()

    # --- the thread's side ---

    def _tell(self, what: Callable[..., Any], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self.loop.call_soon_threadsafe(what, *arguments)

    def _in_thread(self) -> None:
        loaded = self._in_thread_open()
        failures = 0
        while loaded is not None:
            with self._changed:
                while not self._commands and not loaded.engine.has_work:
                    if not self._changed.wait(IDLE / 5):
                        loaded.engine.forget(idle=IDLE)
                commands, self._commands = self._commands, []
            for name, value in commands:
                if name == "stop":
                    self._in_thread_close(loaded)
                    return
                self._in_thread_obey(loaded, name, value)
            if not loaded.engine.has_work:
                continue
            started = time.perf_counter()
            try:
                events = loaded.engine.step()
                failures = 0
            except Exception as error:
                failures += 1
                self.metrics.failures += 1
                notice(f"{self.name}: a step failed: {type(error).__name__}: {error}")
                if failures > 1:
                    loaded, failures = self._in_thread_reopen(loaded, error), 0
                continue
            self.metrics.step(time.perf_counter() - started)
            if events:
                self._in_thread_deliver(events)

    def _in_thread_open(self) -> Loaded | None:
        loaded, failure = None, None
        try:
            loaded = self._open()
        except BaseException as error:
            failure = error
        self._tell(self._opened, loaded, failure)
        return loaded

    def _opened(self, loaded: Loaded | None, failure: BaseException | None) -> None:
        self.loaded = loaded
        _settle(self.ready, None, failure)

    def _in_thread_obey(self, loaded: Loaded, name: str, value: Any) -> None:
        if name == "call":
            work, future = value
            try:
                self._tell(_settle, future, work(loaded), None)
            except BaseException as error:
                self._tell(_settle, future, None, error)
        elif name == "add":
            self._in_thread_add(loaded, value)
        else:
            for request_id in [one for one, sink in self._sinks.items() if sink.stream is value]:
                del self._sinks[request_id]
                loaded.engine.cancel(request_id)

    def _in_thread_add(self, loaded: Loaded, stream: Stream) -> None:
        first, ids = 0, []
        try:
            for request in stream.requests:
                ids.append(loaded.engine.add(request))
                self._sinks[ids[-1]] = _Sink(stream, first, request.n)
                first += request.n
        except BaseException as error:
            for request_id in ids:
                del self._sinks[request_id]
                loaded.engine.cancel(request_id)
            self._tell(stream.fail, error)
            return
        self._tell(_settle, stream.accepted, None, None)

    def _in_thread_deliver(self, events: Sequence[Event]) -> None:
        """One call into the loop for all that a step has to tell."""
        batches: dict[Stream, list[tuple[int, Event]]] = {}
        for event in events:
            sink = self._sinks.get(event.request_id)
            if sink is None:
                continue  # its asker has gone
            batches.setdefault(sink.stream, []).append((sink.first + event.index, event))
            self.metrics.count(event)
            if event.answer is not None:
                sink.unfinished -= 1
                if not sink.unfinished:
                    del self._sinks[event.request_id]
        self._tell(_put, batches)

    def _in_thread_reopen(self, loaded: Loaded, error: Exception) -> Loaded | None:
        """A new engine in place of one that keeps failing; the answers that had begun end with the error."""
        streams = dict.fromkeys(sink.stream for sink in self._sinks.values())
        self._sinks.clear()
        self.metrics.restarts += 1
        self._in_thread_close(loaded)
        again = self._in_thread_open()
        for stream in streams:
            if again is None or stream.told or stream.started_again:
                self._tell(stream.fail, ApiError(500, f"the model failed: {type(error).__name__}: {error}"[:500]))
            else:
                stream.started_again = True
                self._in_thread_add(again, stream)
        return again

    def _in_thread_close(self, loaded: Loaded) -> None:
        with contextlib.suppress(Exception):
            loaded.engine.close()
        close = getattr(loaded.engine.executor, "close", None)
        if close is not None:
            with contextlib.suppress(Exception):
                close()


def _put(batches: dict[Stream, list[tuple[int, Event]]]) -> None:
    for stream, events in batches.items():
        stream.put(events)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if not future.done():
        future.set_result(result) if error is None else future.set_exception(error)
