"""The page from a local server: modules, answers and tiles of the live model, to this machine and this page alone.

It listens on 127.0.0.1. Others who are logged in to this machine reach that as well, a web page elsewhere could ask a
browser here to talk to it, or point a name of its own at 127.0.0.1 (DNS rebinding). So the address has a token in its
path that nobody can guess, and each request must carry it; it must name a local host; and an Origin, if it carries one,
must be ours. Connections are bounded in number and in time. The page's own policy (Content-Security-Policy) lets it run
only the modules served here and reach nothing else.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import sys
import threading
from http import HTTPStatus

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from pellucid.explain.show.answers import Answers
from pellucid.explain.show.asgi import page_app, said
from pellucid.web.connections import quiet_server
from pellucid.web.policy import is_ours, local_names

HOST = "127.0.0.1"
MAX_CONNECTIONS = 64  # at a time; a browser opens six
SECONDS = 30  # in which a connection must say something
GRACE = 2  # seconds that answers have to end in


class PageServer:
    """Serves one view. ``url`` is where, with its token; ``serve_forever`` until ``shutdown``, which waits for its end.

    The address is taken when it is made; who connects before ``serve_forever`` waits.
    """

    def __init__(self, view: Answers, port: int = 0) -> None:
        self.view, self.token = view, secrets.token_urlsafe(16)
        self._socket = socket.create_server((HOST, port))
        self.server_address: tuple[str, int] = self._socket.getsockname()[:2]
        app = _with_token(page_app(view), self.token, self.local_names())
        bounds = {"max_connections": MAX_CONNECTIONS, "seconds": SECONDS}
        self._server = quiet_server(app, **bounds, lifespan="off", timeout_graceful_shutdown=GRACE)
        self._ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/{self.token}/"

    def local_names(self) -> set[str]:
        """What a browser on this machine calls us."""
        return local_names(self.server_address[1])

    def serve_forever(self) -> None:
        """Raises: KeyboardInterrupt, in the main thread, when Ctrl-C has ended it."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._ended.set()

    def shutdown(self) -> None:
        """From another thread than the one that serves."""
        self._server.should_exit = True
        self._ended.wait()

    def __enter__(self) -> PageServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def _with_token(page: ASGIApp, token: str, names: set[str]) -> ASGIApp:
    """The page below the token's path, for those who know it and whose request is one of its own."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        _, first, _ = [*scope["path"].split("/", 2), "", ""][:3]
        knows_token = hmac.compare_digest(first.encode("utf-8", "replace"), token.encode())
        if knows_token and is_ours(Request(scope).headers, names):
            return await page({**scope, "root_path": f"/{token}"}, receive, send)
        refusal = said({"error": "this server answers only its own page on this machine"}, HTTPStatus.FORBIDDEN)
        refusal.headers["Connection"] = "close"
        return await refusal(scope, receive, send)

    return app


def serve_page(view: Answers, port: int = 0, *, open_browser: bool = False) -> None:
    """Serve until interrupted; prints the address."""
    with PageServer(view, port) as server:
        print(f"{server.url} (Ctrl-C ends it)", file=sys.stderr)
        if open_browser:
            import webbrowser

            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(file=sys.stderr)
