"""``/v1/responses``. Source: OpenAI's API reference. The server keeps no conversation: a client sends all its items."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pellucid.serve.apis.fields import HARMLESS, SAMPLING, choosing, described
from pellucid.serve.apis.openai_chat import EFFORTS
from pellucid.serve.apis.openai_objects import logprobs_json
from pellucid.serve.apis.response_items import item_json, messages_of, part_json
from pellucid.serve.http.body import read_json, unless_gone
from pellucid.serve.http.errors import ApiError, api_error, invalid
from pellucid.serve.http.operation import Operation
from pellucid.serve.http.schema import (
    ANYTHING,
    any_of,
    flag,
    list_of,
    nullable,
    number,
    one_of,
    record,
    text,
    whole,
)
from pellucid.serve.http.stream import PING, Streamed, event
from pellucid.serve.work.answer import Answering, Piece, begin
from pellucid.serve.work.ask import Ask, refuse
from pellucid.serve.work.blocks import Block, Blocks, blocks_of

TOOL = record(
    {
        "type": text(),
        "name": text(maxLength=256),
        "description": nullable(text()),
        "parameters": nullable(record({})),
        "strict": nullable(flag()),
    },
    "type",
)
FORMAT = record(
    {
        "type": one_of("text", "json_object", "json_schema"),
        "name": text(),
        "schema": nullable(record({})),
        "strict": nullable(flag()),
        "description": nullable(text()),
    },
    "type",
)
BODY = described(
    {
        "model": nullable(text()),
        "input": any_of(text(), list_of(record({}), minItems=1)),
        "instructions": nullable(text()),
        **{name: SAMPLING[name] for name in SAMPLING if name != "stop"},
        "stop": SAMPLING["stop"],
        "max_output_tokens": nullable(whole(1)),
        "stream": nullable(flag()),
        "stream_options": nullable(record({"include_obfuscation": nullable(flag())}, more=False)),
        "tools": nullable(list_of(TOOL)),
        "tool_choice": nullable(
            any_of(
                one_of("auto", "none", "required"), record({"type": one_of("function"), "name": text()}, "type", "name")
            )
        ),
        "parallel_tool_calls": nullable(flag()),
        "text": nullable(record({"format": nullable(FORMAT), "verbosity": ANYTHING})),
        "reasoning": nullable(record({"effort": nullable(one_of(*EFFORTS)), "summary": ANYTHING})),
        "include": nullable(list_of(text())),
        "top_logprobs": nullable(whole(0, 20)),
        "truncation": ANYTHING,
        "background": ANYTHING,
        "previous_response_id": ANYTHING,
        "conversation": ANYTHING,
        "prompt": ANYTHING,
        "max_tool_calls": ANYTHING,
        "timeout": nullable(number(exclusiveMinimum=0)),
        "chat_template_kwargs": nullable(record({})),
        **HARMLESS,
    },
    ["input"],
)
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "truncation": ("disabled",),
    "background": (False,),
    "previous_response_id": (),
    "conversation": (),
    "prompt": (),
}


def ask_of(body: Mapping[str, Any]) -> Ask:
    """Raises: ApiError."""
    if body.get("previous_response_id") is not None or body.get("conversation") is not None:
        name = "conversation" if body.get("previous_response_id") is None else "previous_response_id"
        raise ApiError(
            400,
            f"{name}: this server keeps no conversations; send the earlier items in input",
            param=name,
            code="unsupported_parameter",
        )
    refuse(body, _NEUTRAL)
    wanted = body.get("text") or {}
    refuse(wanted, {"verbosity": ("medium",)})
    form = wanted.get("format") or {"type": "text"}
    schema = {"type": "object"} if form["type"] == "json_object" else form.get("schema") or {}
    includes = body.get("include") or []
    told = "message.output_text.logprobs" in includes or body.get("top_logprobs") is not None
    choice = body.get("tool_choice") or "auto"
    tools = [_tool(tool) for tool in body.get("tools") or []]
    if not tools and choice not in ("auto", "none"):
        raise invalid("tool_choice needs tools", "tool_choice")
    return Ask(
        model=body.get("model"),
        messages=messages_of(body["input"], body.get("instructions")),
        template_kwargs=body.get("chat_template_kwargs") or {},
        tools=tools,
        tool_choice=choice if isinstance(choice, str) else {"name": choice["name"]},
        parallel_tool_calls=body.get("parallel_tool_calls") is not False,
        form=None if form["type"] == "text" else {"json_schema": schema},
        reasoning_effort=(body.get("reasoning") or {}).get("effort"),
        max_tokens=body.get("max_output_tokens"),
        logprobs=(body.get("top_logprobs") or 0) if told else None,
        deadline=body.get("timeout"),
        **choosing(body),
    )


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool["type"] != "function" or "name" not in tool:
        raise invalid(f"tools: {tool['type'][:80]!r} is a tool of OpenAI's own, which is not here", "tools")
    function = {
        name: tool[name] for name in ("name", "description", "parameters", "strict") if tool.get(name) is not None
    }
    return {"type": "function", "function": function}


async def respond(request: Request) -> Response:
    body = await read_json(request, BODY)
    ask = ask_of(body)
    state = request.app.state
    answering = await unless_gone(request, begin(state.models, state.settings, ask))
    head = _head(body, answering)
    if body.get("stream"):
        return Streamed(_events(answering, head), answering, ping=(state.settings.ping, PING))
    async with answering:
        piece = (await unless_gone(request, answering.whole()))[0]
    ids = _Ids()
    output = [
        item_json(block, ids(block), "completed", _logprobs(answering, block, piece)) for block in blocks_of(piece)
    ]
    return JSONResponse({**head, **_end(answering, piece), "output": output})


class _Ids:
    """Each block's id, made when it is first asked for."""

    def __init__(self) -> None:
        self._ids: dict[int, str] = {}

    def __call__(self, block: Block) -> str:
        prefix = {"reasoning": "rs", "text": "msg", "call": "fc"}[block.kind]
        return self._ids.setdefault(block.index, f"{prefix}_{secrets.token_hex(12)}")


def _head(body: Mapping[str, Any], answering: Answering) -> dict[str, Any]:
    """A Response object that has just begun: what was asked, and nothing answered."""
    ask = answering.ask
    return {
        "id": f"resp_{secrets.token_hex(12)}",
        "object": "response",
        "created_at": answering.created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": ask.max_tokens,
        "model": answering.model.name,
        "output": [],
        "parallel_tool_calls": ask.parallel_tool_calls,
        "previous_response_id": None,
        "reasoning": {"effort": ask.reasoning_effort, "summary": None},
        "store": False,
        "temperature": body.get("temperature"),
        "top_p": body.get("top_p"),
        "text": {"format": (body.get("text") or {}).get("format") or {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "truncation": "disabled",
        "usage": None,
        "metadata": body.get("metadata") or {},
    }


def _end(answering: Answering, piece: Piece) -> dict[str, Any]:
    cut = piece.finish_reason == "length"
    usage = answering.usage
    return {
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "usage": {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.prompt + usage.completion,
        },
    }


def _logprobs(answering: Answering, block: Block, piece: Piece) -> list[dict[str, Any]]:
    if answering.ask.logprobs is None or block.kind != "text":
        return []
    return logprobs_json(answering.loaded.tokenizer, piece.logprobs)


async def _events(answering: Answering, head: dict[str, Any]) -> AsyncGenerator[bytes]:
    number = 0

    def told(kind: str, **values: Any) -> bytes:
        nonlocal number
        number += 1
        return event({"type": kind, "sequence_number": number - 1, **values}, kind)

    async with answering:
        yield told("response.created", response=head) + told("response.in_progress", response=head)
        blocks, ids = Blocks(), _Ids()
        try:
            async for pieces in answering.pieces():
                for piece in pieces:
                    parts = [_told(told, ids, *one, answering, piece) for one in blocks.push(piece)]
                    if piece.answer is not None:
                        parts += [_told(told, ids, *one, answering, piece) for one in blocks.finish()]
                        output = [item_json(block, ids(block), "completed", []) for block in blocks.blocks]
                        end = {**head, **_end(answering, piece), "output": output}
                        parts.append(told(f"response.{end['status']}", response=end))
                    if parts:
                        yield b"".join(parts)
        except Exception as error:
            failure = api_error(error)
            described = {"code": failure.code or "server_error", "message": failure.message}
            yield told("response.failed", response={**head, "status": "failed", "error": described})


def _told(told: Any, ids: _Ids, kind: str, block: Block, new: str, answering: Answering, piece: Piece) -> bytes:
    """The events of a block that begins, grows or ends."""
    place = {"item_id": ids(block), "output_index": block.index}
    part = {**place, "content_index": 0}
    names = {"reasoning": "response.reasoning_text", "text": "response.output_text"}
    if kind == "start":
        added = told(
            "response.output_item.added",
            output_index=block.index,
            item=item_json(block, ids(block), "in_progress", [], empty=True),
        )
        if block.kind == "call":
            return added
        return added + told("response.content_part.added", **part, part=part_json(block, [], empty=True))
    if kind == "delta":
        if block.kind == "call":
            return told("response.function_call_arguments.delta", **place, delta=new)
        logprobs = {"logprobs": _logprobs(answering, block, piece)} if block.kind == "text" else {}
        return told(f"{names[block.kind]}.delta", **part, delta=new, **logprobs)
    if block.kind == "call":
        ended = told("response.function_call_arguments.done", **place, name=block.name, arguments=block.text)
    else:
        logprobs = {"logprobs": []} if block.kind == "text" else {}
        ended = told(f"{names[block.kind]}.done", **part, text=block.text, **logprobs)
        ended += told("response.content_part.done", **part, part=part_json(block, []))
    item = item_json(block, ids(block), "completed", [])
    return ended + told("response.output_item.done", output_index=block.index, item=item)


ANSWER = record(
    {"id": text(), "object": {"const": "response"}, "status": text(), "output": list_of(record({"type": text()}))},
    *("id", "object", "status", "output"),
)
OPERATIONS = (
    Operation("POST", "/v1/responses", respond, "OpenAI: a response to items.", ANSWER, BODY, "text/event-stream"),
)
