"""A request's body: bounded in bytes and in time, JSON, and what its table of fields says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

from starlette.requests import ClientDisconnect, Request

from pellucid.serve.http.errors import ApiError, invalid
from pellucid.serve.http.schema import Schema, check

LARGE = 256 * 1024  # bytes of JSON that are read in a thread of their own, so that nobody waits meanwhile
DEEPEST = 200  # levels of JSON; templates and schemas walk them in recursion

Result = TypeVar("Result")


async def read_body(request: Request, most: int, timeout: float) -> bytes:
    """Raises: ApiError 413 for more than ``most`` bytes, 408 for a client that pauses, ClientDisconnect."""
    parts: list[bytes] = []
    size = 0
    stream = request.stream()
    while True:
        try:
            part = await asyncio.wait_for(anext(stream), timeout)
        except StopAsyncIteration:
            return b"".join(parts)
        except TimeoutError:
            raise ApiError(
                408, f"the body did not come within {timeout:g} s", headers={"Connection": "close"}
            ) from None
        size += len(part)
        if size > most:
            raise ApiError(413, f"the body is larger than {most} bytes", headers={"Connection": "close"})
        parts.append(part)


async def read_json(request: Request, schema: Schema) -> dict[str, Any]:
    """The body as its table of fields has it. Raises: ApiError 400 where it is no JSON, or not of that table."""
    settings = request.app.state.settings
    body = await read_body(request, settings.max_body, settings.read_timeout)
    value = await asyncio.to_thread(parse, body) if len(body) > LARGE else parse(body)
    if not isinstance(value, dict):
        raise invalid(f"the body must be a JSON object, not {type(value).__name__}")
    check(value, schema)
    return value


def parse(body: bytes) -> Any:
    """Raises: ApiError 400, with the place."""
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise invalid(f"the body is not UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise invalid(f"the body is not JSON: {error.msg}, line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise invalid("the body is nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise invalid(f"the body is not JSON that can be read: {error}") from None
    if deeper(value, DEEPEST):
        raise invalid(f"the body is nested in more than {DEEPEST} levels")
    return value


def deeper(value: Any, levels: int) -> bool:
    """Whether the value is nested in more than so many levels."""
    level = [value]
    for _ in range(levels + 1):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


async def gone(request: Request) -> None:
    """Returns when the client has gone. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of the work, which is cancelled when the client goes. Raises: ClientDisconnect then."""
    task, leaves = asyncio.ensure_future(work), asyncio.ensure_future(gone(request))
    try:
        await asyncio.wait({task, leaves}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        leaves.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
