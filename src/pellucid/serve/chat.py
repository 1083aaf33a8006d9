"""The web chat at ``/``: its own files, and those it shares with the explain page, under ``/chat/``.

The page may run only the modules served here and reach only this server (``web.policy``); it asks for a key itself
where the server wants one, so its files are open to all.
"""

from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pellucid.serve.http.errors import ApiError
from pellucid.web.files import content_type, files_of
from pellucid.web.policy import HEADERS

PAGE = files("pellucid") / "serve" / "page"
SHARED = files("pellucid") / "explain" / "page"  # read where it lies: importing the room would import torch
FROM_EXPLAIN = ("dom.js",)
OPEN = ("/",)
OPEN_UNDER = ("/chat/",)


def chat_routes() -> list[BaseRoute]:
    return [Route("/", index, methods=["GET"]), Route("/chat/{name:path}", file, methods=["GET"])]


def chat_files() -> dict[str, bytes]:
    """Name below ``/chat/`` → content."""
    own = files_of(PAGE)
    return own | {f"explain/{name}": (SHARED / name).read_bytes() for name in FROM_EXPLAIN}


async def index(request: Request) -> Response:
    return _page("index.html", (PAGE / "index.html").read_bytes())


async def file(request: Request) -> Response:
    name, pages = request.path_params["name"], chat_files()
    if name not in pages:
        raise ApiError(404, f"there is no /chat/{name[:200]} here")
    return _page(name, pages[name])


def _page(name: str, content: bytes) -> Response:
    return Response(content, headers={**HEADERS, "Content-Type": content_type(name)})
