"""The page as an ASGI app, to be mounted anywhere: its files, and its questions, tiles and orders under ``api/``.

Who may ask is the concern of whoever mounts it; how much is asked is bounded here. The view is asked in threads, since
it runs the model.
"""

from __future__ import annotations

import json
import sys
import traceback
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pellucid.base.errors import PellucidError
from pellucid.explain.show.answers import Answers, NoSuchQuestionError
from pellucid.explain.show.page import page_files
from pellucid.web.files import content_type
from pellucid.web.policy import HEADERS

MAX_BODY = 2**20


def page_app(view: Answers) -> ASGIApp:
    """Serves one view, at the path that it is mounted at."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        place = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix("/")
        try:
            body = await _order(request) if request.method == "POST" else None
            response = await run_in_threadpool(_answer, view, request.method, place, request.url.query, body)
        except ClientDisconnect:
            return  # the page has moved on
        except ValueError as error:
            response = said({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        await response(scope, receive, send)

    return app


async def _order(request: Request) -> dict[str, Any]:
    """Orders are JSON, which a form of another site cannot send unasked. Raises: ValueError for anything else."""
    kind, _, _ = request.headers.get("content-type", "").partition(";")
    body = b""
    if kind.strip().lower() == "application/json":
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_BODY:
                break
    if not 0 < len(body) <= MAX_BODY:
        raise ValueError(f"expected JSON of at most {MAX_BODY} bytes")
    order = json.loads(body)
    if not isinstance(order, dict):
        raise ValueError("expected a JSON object")
    return order


def _answer(view: Answers, method: str, place: str, query: str, body: dict[str, Any] | None) -> Response:
    """One request, whatever goes wrong in it."""
    path, params = place.removeprefix("api/"), dict(parse_qsl(query))
    try:
        if method not in ("GET", "POST"):
            return said({"error": "this page is asked with GET and POST"}, HTTPStatus.METHOD_NOT_ALLOWED)
        if body is not None:
            return said(view.order(path, body))
        if not place.startswith("api/"):
            return _file(place)
        if path.startswith("tile/"):
            tile = view.tile(path.removeprefix("tile/"), params)
            shape = ",".join(map(str, (*tile.data.shape, tile.row_step, tile.col_step)))
            data = tile.data.astype("<f4").tobytes()
            return Response(data, media_type="application/octet-stream", headers={**HEADERS, "X-Tile": shape})
        return said(view.answer(path, params))
    except NoSuchQuestionError as error:
        return said({"error": str(error)}, HTTPStatus.NOT_FOUND)
    except (PellucidError, ValueError, TypeError, KeyError) as error:
        return said({"error": str(error)}, HTTPStatus.BAD_REQUEST)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return said({"error": f"{type(error).__name__}: {error}"}, HTTPStatus.INTERNAL_SERVER_ERROR)


def _file(path: str) -> Response:
    """A file of the page: only those that are in it, by exact name."""
    name, pages = path or "index.html", page_files()
    if name not in pages:
        return said({"error": "there is no such file"}, HTTPStatus.NOT_FOUND)
    return Response(pages[name], headers={**HEADERS, "Content-Type": content_type(name)})


def said(value: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """JSON, under the page's policy."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return Response(text.encode(), status, {**HEADERS, "Content-Type": "application/json; charset=utf-8"})
