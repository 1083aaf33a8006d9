"""The page from a local server: modules, answers and tiles of the live model, to this machine and this page alone.

It listens on 127.0.0.1. Others who are logged in to this machine reach that as well, a web page elsewhere could ask a
browser here to talk to it, or point a name of its own at 127.0.0.1 (DNS rebinding). So the address has a token in its
path that nobody can guess, and each request must carry it; it must name a local host; and an Origin, if it carries one,
must be ours. Connections are bounded in number and in time. The page's own policy (Content-Security-Policy) lets it run
only the modules served here and reach nothing else.
"""

from __future__ import annotations

import hmac
import json
import mimetypes
import secrets
import sys
import threading
import traceback
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pellucid.base.errors import PellucidError
from pellucid.explain.show.answers import Answers, NoSuchQuestionError

HOST = "127.0.0.1"
MAX_BODY = 2**20
MAX_CONNECTIONS = 64  # at a time, each with a thread; a browser opens six
SECONDS = 30  # in which a connection must say something
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
PAGE = files("pellucid.explain") / "page"
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}


class PageServer(ThreadingHTTPServer):
    """Serves one view. ``url`` is where, with its token; ``serve_forever`` and ``shutdown`` as in ``http.server``."""

    daemon_threads = True
    view: Answers

    def __init__(self, view: Answers, port: int = 0) -> None:
        self.view, self.token = view, secrets.token_urlsafe(16)
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/{self.token}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread of its own; one for which there is no place is closed."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def local_names(self) -> set[str]:
        """What a browser on this machine calls us."""
        port = self.server_address[1]
        return {f"{HOST}:{port}", f"localhost:{port}"}


class _Handler(BaseHTTPRequestHandler):
    server: PageServer  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "pellucid", ""
    timeout = SECONDS

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def _serve(self, handle: Any) -> None:
        """One request, whatever goes wrong in it."""
        try:
            if self._allowed():
                handle()
        except NoSuchQuestionError as error:
            self._json({"error": str(error)}, HTTPStatus.NOT_FOUND)
        except (PellucidError, ValueError, TypeError, KeyError) as error:
            self._json({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True  # the page has moved on
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            self._json({"error": f"{type(error).__name__}: {error}"}, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _allowed(self) -> bool:
        names, host, origin = self.server.local_names(), self.headers.get("Host"), self.headers.get("Origin")
        _, token, self.place = [*urlsplit(self.path).path.split("/", 2), "", ""][:3]
        knows_token = hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode())
        is_ours = origin is None or origin in {f"http://{name}" for name in names}
        if not (knows_token and is_ours and host in names):
            self.close_connection = True
            self._json({"error": "this server answers only its own page on this machine"}, HTTPStatus.FORBIDDEN)
            return False
        return True

    def _get(self) -> None:
        path, params = unquote(self.place), dict(parse_qsl(urlsplit(self.path).query))
        if path.startswith("api/tile/"):
            tile = self.server.view.tile(path.removeprefix("api/tile/"), params)
            rows, cols = tile.data.shape
            self._send(
                tile.data.astype("<f4").tobytes(),
                "application/octet-stream",
                headers={"X-Tile": f"{rows},{cols},{tile.row_step},{tile.col_step}"},
            )
        elif path.startswith("api/"):
            self._json(self.server.view.answer(path.removeprefix("api/"), params))
        else:
            self._file(path)

    def _post(self) -> None:
        """Orders are JSON, which a form of another site cannot send unasked."""
        size = int(self.headers.get("Content-Length") or 0)
        if self.headers.get_content_type() != "application/json" or not 0 < size <= MAX_BODY:
            self.close_connection = True
            return self._json({"error": f"expected JSON of at most {MAX_BODY} bytes"}, HTTPStatus.BAD_REQUEST)
        body = json.loads(self.rfile.read(size))
        if not isinstance(body, dict):
            raise ValueError("expected a JSON object")
        return self._json(self.server.view.order(self.place.removeprefix("api/"), body))

    def _file(self, path: str) -> None:
        """A file of the page: only those that are in it, by exact name."""
        name = path or "index.html"
        if name not in page_files():
            return self._json({"error": "there is no such file"}, HTTPStatus.NOT_FOUND)
        suffix = name[name.rindex(".") :]
        return self._send(
            (PAGE / name).read_bytes(), f"{TYPES.get(suffix) or mimetypes.guess_type(name)[0]}; charset=utf-8"
        )

    def _json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode(), "application/json; charset=utf-8", status
        )

    def _send(
        self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        every = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
        }
        for name, value in {**every, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: what a reader looks at is nobody's concern."""


def page_files() -> dict[str, bytes]:
    """The page's own files by their path in it."""
    pages: dict[str, bytes] = {}
    for entry in PAGE.iterdir():
        for file, name in (
            [(entry, entry.name)]
            if entry.is_file()
            else [(inner, f"{entry.name}/{inner.name}") for inner in entry.iterdir()]
        ):
            if name.endswith(tuple(TYPES)):
                pages[name] = file.read_bytes()
    return pages


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
