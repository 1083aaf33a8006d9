"""``Operation``: one path and method, its handler, and what is promised of it; /openapi.json is made of these."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pellucid.serve.http.schema import Schema, nullable, record, text

OPENAI_ERROR = record(
    {
        "error": record(
            {"message": text(), "type": text(), "param": nullable(text()), "code": nullable(text())}, "message", "type"
        )
    },
    "error",
)
ANTHROPIC_ERROR = record(
    {"type": {"const": "error"}, "error": record({"type": text(), "message": text()}, "type", "message")},
    "type",
    "error",
)
OLLAMA_ERROR = record({"error": text()}, "error")

_STATUS = {
    400: "What was asked cannot be.",
    401: "No key, or one that opens nothing.",
    403: "A page or a name that may not ask.",
    404: "There is no such model.",
    408: "The body did not come.",
    413: "The body is too large.",
    429: "The line is full: come again after Retry-After seconds.",
    500: "The server failed.",
    501: "A model or mechanism that this version does not have.",
    503: "The server is loading, ending, or out of memory.",
    504: "The answer was not complete in time.",
}
_ALWAYS = (401, 403, 500, 503)
_WITH_BODY = (400, 404, 408, 413, 429, 501, 504)


@dataclass(frozen=True)
class Operation:
    """``body`` is the table that its requests are checked by; ``answer`` what a whole answer is; ``stream`` the media
    type of an answer in pieces, where there is one.
    """

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    summary: str
    answer: Schema = field(default_factory=dict)
    body: Schema | None = None
    stream: str | None = None
    media_type: str = "application/json"
    parameters: Sequence[str] = ()  # of the path
    errors: Sequence[int] = ()  # beside the usual ones

    @property
    def route(self) -> Route:
        return Route(self.path, self.handler, methods=[self.method])

    @property
    def error(self) -> Schema:
        if self.path.startswith("/v1/messages"):
            return ANTHROPIC_ERROR
        return OLLAMA_ERROR if self.path.startswith("/api/") else OPENAI_ERROR

    def described(self) -> dict[str, Any]:
        """The Operation Object. Source: OpenAPI 3.1.0, 4.8.10."""
        content: dict[str, Any] = {self.media_type: {"schema": self.answer}}
        if self.stream is not None:
            content[self.stream] = {"schema": {"type": "string"}}
        responses: dict[str, Any] = {"200": {"description": "The answer.", "content": content}}
        for status in sorted({*_ALWAYS, *self.errors, *(_WITH_BODY if self.body is not None else ())}):
            responses[str(status)] = {
                "description": _STATUS[status],
                "content": {"application/json": {"schema": self.error}},
            }
        described: dict[str, Any] = {
            "summary": self.summary,
            "operationId": f"{self.method} {self.path}".lower().translate(str.maketrans("/ -{}:.", "_______")),
            "responses": responses,
        }
        if self.body is not None:
            described["requestBody"] = {"required": True, "content": {"application/json": {"schema": self.body}}}
        if self.parameters:
            described["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
                for name in self.parameters
            ]
        return described


def openapi(operations: Sequence[Operation], version: str, keyed: bool) -> dict[str, Any]:
    """The document. ``keyed``: whether a key is asked for."""
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(one.path.replace(":path", ""), {})[one.method.lower()] = one.described()
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Pellucid",
            "version": version,
            "description": "Language models behind the APIs of OpenAI, Anthropic, Ollama and llama-server.",
        },
        "paths": paths,
    }
    if keyed:
        document["components"] = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}}
        document["security"] = [{"key": []}]
    return document
