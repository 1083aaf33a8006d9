"""What goes wrong, as each API says it: a status, and JSON with a message that helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from pellucid.base.errors import ContextLengthError, ModelNotFoundError, PellucidError

# OpenAI's names for kinds of failure, by status.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class ApiError(Exception):
    """A request that gets no answer: its HTTP status, and what OpenAI's error JSON holds."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")
        self.headers = dict(headers or {})


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """What was asked cannot be: 400."""
    return ApiError(400, message, param=param, code=code)


def busy(message: str, seconds: float, *, status: int = 429) -> ApiError:
    """Come again in so many seconds."""
    return ApiError(
        status,
        message,
        kind="rate_limit_error" if status == 429 else "server_error",
        code="queue_full" if status == 429 else "unavailable",
        headers={"Retry-After": str(max(1, round(seconds)))},
    )


def api_error(error: BaseException) -> ApiError:
    """Any failure as an answer. What is the asker's fault says so; what is ours shows its name and no more."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextLengthError):
        return invalid(plain(error), code="context_length_exceeded")
    if isinstance(error, ModelNotFoundError):
        return ApiError(404, plain(error), code="model_not_found", param="model")
    if isinstance(error, PellucidError) and isinstance(error, ValueError):
        return invalid(plain(error))
    if isinstance(error, PellucidError):
        return ApiError(500 if not isinstance(error, NotImplementedError) else 501, plain(error))
    if isinstance(error, MemoryError):
        return busy(f"there is no memory for this: {error}", 5, status=503)
    return ApiError(500, f"the server failed: {type(error).__name__}: {error}"[:500])


def plain(error: BaseException) -> str:
    """An error's message in one line."""
    return str(error).replace("\n  → ", "; ").replace("\n", " ")


def error_json(path: str, error: ApiError) -> dict[str, Any]:
    """The failure in the words of the API that was called."""
    if path.startswith("/v1/messages"):
        kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": error.message}}
    if path.startswith("/api/"):
        return {"error": error.message}
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def error_response(path: str, error: ApiError) -> JSONResponse:
    return JSONResponse(error_json(path, error), error.status, headers=error.headers)
