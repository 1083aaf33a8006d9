"""``create_app``: the ASGI app of one server."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import AsyncGenerator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from pellucid.base.errors import PellucidError
from pellucid.base.version import __version__
from pellucid.serve import chat, why
from pellucid.serve.apis import (
    anthropic,
    llama_server,
    ollama,
    openai_chat,
    openai_embeddings,
    openai_models,
    openai_responses,
    openai_text,
)
from pellucid.serve.chat import chat_routes
from pellucid.serve.http.errors import ApiError, api_error, error_response
from pellucid.serve.http.guard import Guard
from pellucid.serve.http.operation import Operation, openapi
from pellucid.serve.http.schema import record, text
from pellucid.serve.settings import Settings
from pellucid.serve.why import Explanations, why_routes
from pellucid.serve.work.models import Models


def create_app(models: Models, settings: Settings | None = None) -> Starlette:
    """The app that answers for these models; the first is loaded when it starts, the others when they are asked for."""
    settings = settings or Settings()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        first = app.state.first = asyncio.ensure_future(models.worker(models.models[0], settings))
        try:
            yield
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await models.stop()

    app = Starlette(
        routes=[*routes(), *chat_routes(), *why_routes(Explanations())],
        middleware=[
            Middleware(Guard, settings=settings, open_paths=chat.OPEN, open_under=(*chat.OPEN_UNDER, *why.OPEN_UNDER))
        ],
        exception_handlers={
            ApiError: _api_error,
            PellucidError: _api_error,
            MemoryError: _api_error,
            ClientDisconnect: _gone,
            HTTPException: _http_error,
            Exception: _failed,
        },
        lifespan=lifespan,
    )
    app.state.models, app.state.settings, app.state.ending = models, settings, False
    return app


def operations() -> list[Operation]:
    """Every path that is described."""
    return [
        Operation("GET", "/health", health, "Whether the server answers.", record({"status": text()}, "status")),
        *openai_models.OPERATIONS,
        *openai_chat.OPERATIONS,
        *openai_text.OPERATIONS,
        *openai_responses.OPERATIONS,
        *openai_embeddings.OPERATIONS,
        *anthropic.OPERATIONS,
        *ollama.OPERATIONS,
        *llama_server.OPERATIONS,
    ]


def routes() -> list[BaseRoute]:
    return [*(one.route for one in operations()), Route("/openapi.json", described, methods=["GET"])]


async def described(request: Request) -> JSONResponse:
    """OpenAPI's description of all of it."""
    return JSONResponse(openapi(operations(), __version__, bool(request.app.state.settings.api_keys)))


async def health(request: Request) -> JSONResponse:
    """200 when the first model is ready; llama-server's 503 while it loads."""
    worker = request.app.state.models.models[0].worker
    if request.app.state.ending:
        raise ApiError(503, "the server is ending", code="unavailable", headers={"Retry-After": "5"})
    if worker is not None and not worker.ready.done():
        raise ApiError(503, "Loading model", code="unavailable", headers={"Retry-After": "1"})
    return JSONResponse({"status": "ok"})


async def _api_error(request: Request, error: Exception) -> Response:
    return error_response(request.url.path, api_error(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    message = {404: f"there is no {path[:200]} here", 405: f"{method} is not for {path[:200]}"}.get(
        error.status_code, error.detail
    )
    return error_response(path, ApiError(error.status_code, message, headers=error.headers))


async def _failed(request: Request, error: Exception) -> Response:
    traceback.print_exception(error)
    return error_response(request.url.path, api_error(error))


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it
