"""The server under the app: uvicorn, with bounds that it leaves to others."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import uvicorn

from pellucid.base.errors import RequestError
from pellucid.web.connections import BoundedProtocol

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from pellucid.serve.settings import Settings


def bounded(settings: Settings) -> type[BoundedProtocol]:
    """The protocol with these bounds, and one more clock: what is sent must be taken within ``write_timeout``."""

    class Bounded(BoundedProtocol):
        max_connections, seconds = settings.max_connections, settings.read_timeout
        _stalled: asyncio.TimerHandle | None = None

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stalled = self.loop.call_later(settings.write_timeout, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._taken()

        def connection_lost(self, exc: Exception | None) -> None:
            self._taken()
            super().connection_lost(exc)

        def _taken(self) -> None:
            if self._stalled is not None:
                self._stalled.cancel()
                self._stalled = None

    return Bounded


class Server(uvicorn.Server):
    """Told to end, it takes no more requests; those that run have ``grace`` seconds, then they are told."""

    def __init__(self, config: uvicorn.Config, app: Starlette, settings: Settings) -> None:
        super().__init__(config)
        self.app, self.settings = app, settings
        self.failed: BaseException | None = None  # why the first model could not be loaded

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.app.state.first.add_done_callback(self._first_is_loaded)
        print(f"listening on {address(self.settings, sockets)}", file=sys.stderr, flush=True)

    def _first_is_loaded(self, loading: asyncio.Future[Any]) -> None:
        """A server that has nothing to answer with ends."""
        if not loading.cancelled() and (error := loading.exception()) is not None:
            self.failed, self.should_exit = error, True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """SIGTERM and Ctrl-C end it; a second Ctrl-C at once. uvicorn's own then dies of the signal."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.app.state.ending = True
        ending = asyncio.get_running_loop().call_later(self.settings.grace, self.app.state.models.end_answers)
        await super().shutdown(sockets)
        ending.cancel()


def listen(settings: Settings) -> socket.socket:
    """The socket, bound. Raises: RequestError where it cannot be."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise RequestError(
            f"{settings.host}:{settings.port} cannot be listened on: {error.strerror or error}",
            remedy="another --port (0: any that is free), or end what listens there",
        ) from None
    return sock


def address(settings: Settings, sockets: list[socket.socket] | None) -> str:
    """The URL that a browser on this machine opens."""
    port = sockets[0].getsockname()[1] if sockets else settings.port
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{'https' if settings.ssl_certfile else 'http'}://{host}:{port}"


def serve(app: Starlette, settings: Settings) -> None:
    """Serve until told to end. Raises: RequestError where the port is taken; what loading the first model raises."""
    sock = listen(settings)
    options: dict[str, Any] = {}
    if settings.ssl_certfile is not None:
        options |= {"ssl_certfile": settings.ssl_certfile, "ssl_keyfile": settings.ssl_keyfile}
    config = uvicorn.Config(
        app,
        http=bounded(settings),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=settings.max_header,
        timeout_keep_alive=max(int(settings.read_timeout), 1),
        timeout_graceful_shutdown=int(settings.grace) + 5,
        **options,
    )
    server = Server(config, app, settings)
    server.run(sockets=[sock])
    if server.failed is not None:
        raise server.failed
