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
from pellucid.serve import chat, why
from pellucid.serve.apis import openai_chat, openai_models, openai_text
from pellucid.serve.chat import chat_routes
from pellucid.serve.http.errors import ApiError, api_error, error_response
from pellucid.serve.http.guard import Guard
from pellucid.serve.settings import Settings
from pellucid.serve.why import Explanations, why_routes
from pellucid.serve.work.models import Models


def create_app(models: Models, settings: Settings | None = None) -> Starlette:
    """The app that answers for these models; the first is loaded when it starts, the others when they are asked for."""
    settings = settings or Settings()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        first = asyncio.ensure_future(models.worker(models.models[0], settings))
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


def routes() -> list[BaseRoute]:
    """Every path; what /openapi.json describes."""
    return [
        Route("/health", health, methods=["GET"]),
        Route("/v1/models", openai_models.all_models, methods=["GET"]),
        Route("/v1/models/{model:path}", openai_models.one_model, methods=["GET"]),
        Route("/v1/chat/completions", openai_chat.complete, methods=["POST"]),
        Route("/v1/completions", openai_text.complete, methods=["POST"]),
    ]


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
