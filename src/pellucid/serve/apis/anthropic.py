"""Anthropic's ``/v1/messages``. Source: docs.anthropic.com, Messages and Streaming messages."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pellucid.serve.apis.llama_server import with_model
from pellucid.serve.http.body import read_json, unless_gone
from pellucid.serve.http.errors import api_error, error_json, invalid
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
from pellucid.serve.http.stream import Streamed, event
from pellucid.serve.work.answer import Answering, Piece, arguments_of, begin
from pellucid.serve.work.ask import Ask
from pellucid.serve.work.blocks import Block, Blocks, blocks_of
from pellucid.serve.work.conversation import conversation

BLOCK = record({"type": text()}, "type")
CONTENT = any_of(text(), list_of(BLOCK))
MESSAGE = record({"role": one_of("user", "assistant", "system"), "content": CONTENT}, "role", "content")
TOOL = record(
    {
        "type": nullable(text()),
        "name": text(minLength=1, maxLength=256),
        "description": nullable(text()),
        "input_schema": nullable(record({})),
        "strict": nullable(flag()),
    },
    "name",
)
_PROMPT = {
    "model": text(),
    "messages": list_of(MESSAGE, minItems=1),
    "system": nullable(any_of(text(), list_of(BLOCK))),
    "tools": nullable(list_of(TOOL)),
    "tool_choice": nullable(
        record(
            {
                "type": one_of("auto", "any", "tool", "none"),
                "name": nullable(text()),
                "disable_parallel_tool_use": nullable(flag()),
            },
            "type",
        )
    ),
    "thinking": nullable(record({"type": one_of("enabled", "disabled", "adaptive")}, "type")),
    "cache_control": ANYTHING,
    "output_config": nullable(
        record(
            {
                "effort": nullable(one_of("low", "medium", "high", "xhigh", "max")),
                "format": nullable(record({"type": one_of("json_schema"), "schema": record({})}, "type", "schema")),
            }
        )
    ),
}
BODY = record(
    {
        **_PROMPT,
        "max_tokens": whole(1),
        "stop_sequences": nullable(list_of(text(minLength=1), maxItems=64)),
        "stream": nullable(flag()),
        "temperature": nullable(number(0, 2)),
        "top_k": nullable(whole(0)),
        "top_p": nullable(number(0, 1)),
        "metadata": ANYTHING,
        "service_tier": ANYTHING,
        "context_management": ANYTHING,
        "betas": ANYTHING,
    },
    *("model", "messages", "max_tokens"),
    more=False,
)
COUNT = record({**_PROMPT}, "model", "messages", more=False)


def ask_of(body: Mapping[str, Any]) -> Ask:
    """Raises: ApiError."""
    sampling = {name: body[name] for name in ("temperature", "top_k", "top_p") if body.get(name) is not None}
    choice, output = body.get("tool_choice") or {}, body.get("output_config") or {}
    thinking = (body.get("thinking") or {}).get("type")
    effort = {"disabled": "none", "enabled": "medium", "adaptive": "medium", None: None}[thinking]
    if output.get("effort") is not None and thinking != "disabled":
        effort = {"max": "xhigh"}.get(output["effort"], output["effort"])
    form = output.get("format")
    return Ask(
        model=body["model"],
        messages=messages_of(body),
        tools=[_tool(tool) for tool in body.get("tools") or []],
        tool_choice=_choice(choice),
        parallel_tool_calls=not choice.get("disable_parallel_tool_use"),
        form=None if form is None else {"json_schema": form["schema"]},
        reasoning_effort=effort,
        max_tokens=body.get("max_tokens"),
        clamp=True,
        stop=tuple(body.get("stop_sequences") or ()),
        sampling=sampling,
    )


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The conversation as templates know it: tool results are messages of their own. Raises: ApiError."""
    messages: list[dict[str, Any]] = []
    if body.get("system"):
        messages.append({"role": "system", "content": _text(body["system"], "system")})
    for place, message in enumerate(body["messages"]):
        content, where = message["content"], f"messages[{place}].content"
        if isinstance(content, str):
            messages.append({"role": message["role"], "content": content})
        else:
            messages += _unpacked(message["role"], content, where)
    return messages


def _unpacked(role: str, blocks: Sequence[Mapping[str, Any]], where: str) -> list[dict[str, Any]]:
    """One message's blocks: results of tools first, as messages of the tool; then its text, thoughts and calls."""
    results, texts, thoughts, calls = [], [], [], []
    for block in blocks:
        kind = block["type"]
        if kind == "text":
            texts.append(_string(block, "text", where))
        elif kind == "thinking":
            thoughts.append(_string(block, "thinking", where))
        elif kind == "redacted_thinking":
            continue
        elif kind == "tool_use":
            arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
            function = {"name": _string(block, "name", where), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            content = _text(block.get("content") or "", where)
            results.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content})
        else:
            raise invalid(f"{where}: a block of kind {kind[:80]!r} cannot be read here; only text and tools can", where)
    message: dict[str, Any] = {"role": role, "content": "".join(texts)}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return [*results, message] if texts or thoughts or calls or not results else results


def _string(block: Mapping[str, Any], name: str, where: str) -> str:
    if not isinstance(value := block.get(name), str):
        raise invalid(f"{where}: a {block['type']} block needs {name}, a string", where)
    return value


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_string(_is_text(block, where), "text", where) for block in content)


def _is_text(block: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(block, Mapping) or block.get("type") != "text":
        kind = block.get("type") if isinstance(block, Mapping) else block
        raise invalid(f"{where}: a block of kind {str(kind)[:80]!r} cannot be read here; only text can", where)
    return block


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        raise invalid(f"tools: {str(tool['type'])[:80]!r} is a tool of Anthropic's own, which is not here", "tools")
    function = {"name": tool["name"], "parameters": tool.get("input_schema") or {"type": "object", "properties": {}}}
    if tool.get("description"):
        function["description"] = tool["description"]
    return {"type": "function", "function": function}


def _choice(choice: Mapping[str, Any]) -> Any:
    kind = choice.get("type", "auto")
    if kind == "tool":
        if not choice.get("name"):
            raise invalid("tool_choice: of type tool needs a name", "tool_choice")
        return {"name": choice["name"]}
    return "required" if kind == "any" else kind


async def messages(request: Request) -> Response:
    body = await read_json(request, BODY)
    ask = ask_of(body)
    state = request.app.state
    answering = await unless_gone(request, begin(state.models, state.settings, ask))
    head = {"id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant", "model": body["model"]}
    if body.get("stream"):
        return Streamed(
            _events(answering, head), answering, ping=(state.settings.ping, event({"type": "ping"}, "ping"))
        )
    async with answering:
        piece = (await unless_gone(request, answering.whole()))[0]
    whole = [block for block in blocks_of(piece) if block.kind != "call" or arguments_of(block.text) is not None]
    content = [_block_json(block) for block in whole]
    return JSONResponse({**head, "content": content, **_stopped(answering, piece), "usage": _usage(answering)})


def _block_json(block: Block) -> dict[str, Any]:
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": block.text, "signature": ""}
    if block.kind == "call":
        return {"type": "tool_use", "id": block.id, "name": block.name, "input": arguments_of(block.text)}
    return {"type": "text", "text": block.text}


def _stopped(answering: Answering, piece: Piece) -> dict[str, Any]:
    assert piece.answer is not None
    reason, by = piece.finish_reason, piece.answer.stopped_by
    if reason == "tool_calls":
        return {"stop_reason": "tool_use", "stop_sequence": None}
    if reason == "length":
        cut = answering.ask.max_tokens is None or len(piece.answer.token_ids) < answering.ask.max_tokens
        return {"stop_reason": "model_context_window_exceeded" if cut else "max_tokens", "stop_sequence": None}
    if isinstance(by, str) and by in answering.ask.stop:
        return {"stop_reason": "stop_sequence", "stop_sequence": by}
    return {"stop_reason": "end_turn", "stop_sequence": None}


def _usage(answering: Answering) -> dict[str, Any]:
    """Anthropic counts what was read from a cache apart."""
    usage = answering.usage
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
    }


async def _events(answering: Answering, head: dict[str, Any]) -> AsyncGenerator[bytes]:
    async with answering:
        empty = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": {**_usage(answering)}}
        yield event({"type": "message_start", "message": {**head, **empty}}, "message_start")
        blocks = Blocks()
        try:
            async for pieces in answering.pieces():
                for piece in pieces:
                    told = b"".join(_block_event(*one) for one in blocks.push(piece))
                    if piece.answer is not None:
                        told += b"".join(_block_event(*one) for one in blocks.finish())
                        delta = {"delta": _stopped(answering, piece), "usage": _usage(answering)}
                        told += event({"type": "message_delta", **delta}, "message_delta")
                        told += event({"type": "message_stop"}, "message_stop")
                    if told:
                        yield told
        except Exception as error:
            yield event(error_json("/v1/messages", api_error(error)), "error")


def _block_event(kind: str, block: Block, new: str) -> bytes:
    if kind == "stop":
        return event({"type": "content_block_stop", "index": block.index}, "content_block_stop")
    if kind == "start":
        empty = {
            "reasoning": {"type": "thinking", "thinking": "", "signature": ""},
            "text": {"type": "text", "text": ""},
            "call": {"type": "tool_use", "id": block.id, "name": block.name, "input": {}},
        }[block.kind]
        start = {"type": "content_block_start", "index": block.index, "content_block": empty}
        return event(start, "content_block_start")
    delta = {
        "reasoning": {"type": "thinking_delta", "thinking": new},
        "text": {"type": "text_delta", "text": new},
        "call": {"type": "input_json_delta", "partial_json": new},
    }[block.kind]
    return event({"type": "content_block_delta", "index": block.index, "delta": delta}, "content_block_delta")


async def count_tokens(request: Request) -> Response:
    body = await read_json(request, COUNT)
    ask, template = ask_of(body), request.app.state.settings.template
    ids = await with_model(
        request, body["model"], lambda loaded: conversation(loaded.tokenizer, ask, template).token_ids
    )
    return JSONResponse({"input_tokens": len(ids)})


ANSWER = record(
    {
        "id": text(),
        "type": {"const": "message"},
        "role": {"const": "assistant"},
        "content": list_of(BLOCK),
        "stop_reason": nullable(text()),
        "usage": record({"input_tokens": whole(0), "output_tokens": whole(0)}, "input_tokens", "output_tokens"),
    },
    *("id", "type", "role", "content", "usage"),
)
OPERATIONS = (
    Operation("POST", "/v1/messages", messages, "Anthropic: the next message.", ANSWER, BODY, "text/event-stream"),
    Operation(
        "POST",
        "/v1/messages/count_tokens",
        count_tokens,
        "Anthropic: the length of a conversation.",
        record({"input_tokens": whole(0)}, "input_tokens"),
        COUNT,
    ),
)
