"""Answers that come in pieces: server-sent events, and JSON lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

# What Python's splitlines() takes for the end of a line, and JSON leaves as it is; clients cut streams with it.
_LINE_ENDS = str.maketrans({"\x85": r"\u0085", "\u2028": r"\u2028", "\u2029": r"\u2029"})

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def dumps(value: Any) -> bytes:
    """JSON in one line, whoever reads it."""
    text = _ENCODER.encode(value)
    return (text if text.isascii() else text.translate(_LINE_ENDS)).encode("utf-8", "replace")


def event(value: Any, name: str | None = None) -> bytes:
    """One server-sent event. Source: WHATWG HTML, 9.2."""
    head = b"" if name is None else b"event: %s\n" % name.encode()
    return b"%sdata: %s\n\n" % (head, dumps(value))


DONE = b"data: [DONE]\n\n"
PING = b": still here\n\n"  # a comment: every client passes over it


def line(value: Any) -> bytes:
    return dumps(value) + b"\n"


class Closable(Protocol):
    async def close(self) -> None: ...


class Streamed(Response):
    """Sends pieces as they come. When the client goes (or takes nothing for long: see ``server.bounded``), the
    generator is closed at once, and with it what it was waiting for; so is ``owner``, though no piece was asked for.

    ``ping``: what is sent where nothing has come for so many seconds.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes],
        owner: Closable,
        *,
        media_type: str = "text/event-stream",
        ping: tuple[float, bytes] | None = None,
    ) -> None:
        super().__init__(media_type=media_type, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._pieces, self._owner, self._ping = pieces, owner, ping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self._send(send))
        leaves = asyncio.ensure_future(_leaves(receive))
        try:
            await asyncio.wait({work, leaves}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, leaves):
                task.cancel()
            await asyncio.gather(work, leaves, return_exceptions=True)
            await self._pieces.aclose()
            await self._owner.close()

    async def _send(self, send: Send) -> None:
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        async for piece in self._pinged():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pinged(self) -> AsyncGenerator[bytes]:
        if self._ping is None:
            async for piece in self._pieces:
                yield piece
            return
        seconds, ping = self._ping
        following: asyncio.Future[bytes] | None = None
        try:
            while True:
                following = asyncio.ensure_future(anext(self._pieces))
                while not (await asyncio.wait({following}, timeout=seconds))[0]:
                    yield ping
                try:
                    yield following.result()
                except StopAsyncIteration:
                    return
        finally:
            if following is not None and not following.done():
                following.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await following


async def _leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
