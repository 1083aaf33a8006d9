"""``Stream``: the events of some requests, for whoever reads them, while all others advance along."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from pellucid.generate.result import Event

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Protocol

    class Steps(Protocol):
        def advance(self, mail: deque[Event]) -> None: ...
        def leave(self, request_ids: Collection[int]) -> None: ...


class Stream(Iterator[Event]):
    """Steps an engine until its requests are finished, and yields their events. Others' events wait where they are due.

    Closing it early, or forgetting it, cancels its requests; nobody is told of them any more. Several threads may each
    read one of theirs.
    """

    def __init__(self, engine: Steps, num_answers: dict[int, int], mail: deque[Event]) -> None:
        self._engine, self._mail = engine, mail
        self._unfinished = {(request_id, index) for request_id, n in num_answers.items() for index in range(n)}

    def __next__(self) -> Event:
        if not self._unfinished:
            raise StopIteration
        try:
            while not self._mail:
                self._engine.advance(self._mail)
            event = self._mail.popleft()
            if event.answer is not None:
                self._unfinished.discard((event.request_id, event.index))
            return event
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancel what is not finished."""
        if self._unfinished:
            left, self._unfinished = {request_id for request_id, _ in self._unfinished}, set()
            self._engine.leave(left)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()
