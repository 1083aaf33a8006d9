"""Connections that are bounded in number and in time, on uvicorn's HTTP/1.1.

uvicorn bounds how many requests run (with 503), and how long an idle connection is kept once a request was answered on
it. Nothing there ends a connection that never says anything, or that sends its header one byte a minute.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol


class BoundedProtocol(H11Protocol):
    """One connection. Beyond ``max_connections`` it is closed at once; a request must arrive whole, body included,
    within ``seconds``.
    """

    max_connections = 64
    seconds = 30.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.max_connections:
            self.transport = transport
            transport.close()
            return
        super().connection_made(transport)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):  # more of it is to come
            self._start_clock()
        else:
            self._stop_clock()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE:  # uvicorn's own clock runs between two requests
            self._stop_clock()

    def _start_clock(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.seconds, self.transport.close)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def quiet_server(app: Any, *, max_connections: int, seconds: float, **settings: Any) -> uvicorn.Server:
    """A server that writes no log and holds its connections to these bounds; ``settings`` are uvicorn's."""
    bounds = {"max_connections": max_connections, "seconds": seconds}
    config = uvicorn.Config(
        app,
        http=type("Bounded", (BoundedProtocol,), bounds),
        ws="none",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(seconds) or 1,
        **settings,
    )
    return uvicorn.Server(config)
