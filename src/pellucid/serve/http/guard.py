"""``Guard``: who may ask. Names of this machine, origins of pages, keys; before any API is reached.

Others on this machine reach 127.0.0.1 as well as its owner, and a page elsewhere may point a name of its own at it (DNS
rebinding). So a request names this machine by an address, by ``localhost``, or by a name that the server was told; a
browser's Origin is the page's own or one that CORS allows. With a key, who has it may ask.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pellucid.serve.http.errors import ApiError, error_response

if TYPE_CHECKING:
    from pellucid.serve.settings import Settings

OPEN = ("/health", "/v1/health")  # that say nothing of anybody, and need no key
METHODS = "GET, POST, DELETE, HEAD, OPTIONS"


class Guard:
    """ASGI middleware. ``open_paths``, and what lies under ``open_under``: of pages, which ask for a key themselves."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        open_paths: tuple[str, ...] = (),
        open_under: tuple[str, ...] = (),
    ) -> None:
        self.app, self.settings, self.open_paths, self.open_under = app, settings, (*OPEN, *open_paths), open_under
        self.names = {
            "localhost",
            socket.gethostname().lower(),
            settings.host.lower(),
            *map(str.lower, settings.allowed_hosts),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        cors = self._cors(headers.get("origin"))
        try:
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers and cors:
                return await self._preflight(headers, cors)(scope, receive, send)
            self._check(scope, headers)
        except ApiError as error:
            return await error_response(scope["path"], error)(scope, receive, _with(cors, send))
        return await self.app(scope, receive, _with(cors, send))

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raises: ApiError 403 or 401."""
        settings = self.settings
        if not settings.api_keys:
            self._check_host(headers.get("host", ""))
        origin = headers.get("origin")
        if origin is not None and not self._cors(origin) and not self._is_own(scope, headers, origin):
            raise ApiError(403, f"a page of {origin[:200]!r} may not ask here; allow it: --cors {origin[:200]}")
        path = scope["path"]
        if settings.api_keys and path not in self.open_paths and not path.startswith(self.open_under):
            self._check_key(headers)

    def _check_host(self, host: str) -> None:
        name = _host_name(host)
        try:
            ipaddress.ip_address(name)
            return
        except ValueError:
            pass
        if name.lower().rstrip(".") not in self.names:
            raise ApiError(
                403, f"this server does not go by the name {name[:200]!r}; tell it: --allowed-host {name[:200]}"
            )

    def _check_key(self, headers: Headers) -> None:
        """OpenAI's ``Authorization: Bearer KEY``, or Anthropic's ``x-api-key: KEY``."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        offered = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        same = [hmac.compare_digest(offered.encode(), key.encode()) for key in self.settings.api_keys]
        if not any(same):
            what = (
                "Incorrect API key provided."
                if offered
                else "You didn't provide an API key: Authorization: Bearer KEY."
            )
            raise ApiError(401, what, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    def _is_own(self, scope: Scope, headers: Headers, origin: str) -> bool:
        """Whether the page that asks was served here. Behind a proxy that ends TLS, the scheme is another."""
        host = headers.get("host", "")
        return origin in (f"http://{host}", f"https://{host}")

    def _cors(self, origin: str | None) -> str | None:
        allowed = self.settings.cors_origins
        return origin if origin is not None and ("*" in allowed or origin in allowed) else None

    def _preflight(self, headers: Headers, origin: str) -> Response:
        asked = headers.get("access-control-request-headers", "")
        more = {"Access-Control-Allow-Methods": METHODS, "Access-Control-Max-Age": "600"}
        if asked:
            more["Access-Control-Allow-Headers"] = asked
        return Response(status_code=204, headers={"Access-Control-Allow-Origin": origin, "Vary": "Origin", **more})


def _with(origin: str | None, send: Send) -> Send:
    """Adds what CORS asks of an answer."""
    if origin is None:
        return send

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            exposed = (b"access-control-expose-headers", b"retry-after, request-id")
            message["headers"] = [
                *message.get("headers", ()),
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"vary", b"Origin"),
                exposed,
            ]
        await send(message)

    return sending


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host
