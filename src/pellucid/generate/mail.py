"""``Mail``: events on their way, each to the reader of its request, or to whoever asks for what is nobody's own."""

from __future__ import annotations

from collections import deque

from pellucid.generate.result import Event


class Mail:
    """Nothing here waits or locks: one thread tells at a time, and readers take from their own."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque()  # of requests without a reader of their own
        self._readers: dict[int, deque[Event] | None] = {}  # request → its reader's; None: the reader is gone

    def __len__(self) -> int:
        """Requests that have readers, or had."""
        return len(self._readers)

    def read(self, request_id: int, events: deque[Event]) -> None:
        """A request's events go there from now on."""
        self._readers[request_id] = events

    def leave(self, request_id: int) -> None:
        """Its reader is gone; what is still to be told goes nowhere."""
        if request_id in self._readers:
            self._readers[request_id] = None

    def tell(self, event: Event) -> None:
        events = self._readers.get(event.request_id, self.events)
        if events is not None:
            events.append(event)

    def told(self, event: Event) -> bool:
        """Whether it is there already, or nobody wants to know."""
        events = self._readers.get(event.request_id, self.events)
        return events is None or any(one is event for one in events)

    def over(self, request_id: int) -> None:
        """Nothing more will be told of a request."""
        self._readers.pop(request_id, None)

    def take(self) -> list[Event]:
        """What is nobody's own."""
        events, self.events = self.events, deque()
        return list(events)
