"""``/v1/chat/completions``. Source: OpenAI's API reference; extensions as vLLM and llama-server name them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pellucid.serve.apis.fields import (
    FORMS,
    HARMLESS,
    MOST_CHOICES,
    MOST_LOGPROBS,
    SAMPLING,
    STREAM_OPTIONS,
    choosing,
    described,
    either,
    form,
)
from pellucid.serve.apis.openai_objects import FINISH, TIMINGS, USAGE, ending, head, logprobs_json, timings_json
from pellucid.serve.http.body import read_json, unless_gone
from pellucid.serve.http.errors import api_error, error_json, invalid
from pellucid.serve.http.operation import Operation
from pellucid.serve.http.schema import ANYTHING, any_of, flag, list_of, nullable, number, one_of, record, text, whole
from pellucid.serve.http.stream import DONE, PING, Streamed, event
from pellucid.serve.work.answer import Answering, Piece, ToolDelta, begin
from pellucid.serve.work.ask import Ask, refuse

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")

PART = record({"type": text()}, "type")
CALL = record(
    {
        "id": nullable(text()),
        "type": nullable(text()),
        "function": record({"name": text(), "arguments": any_of(text(), record({}))}, "name"),
    },
    "function",
)
MESSAGE = record(
    {
        "role": text(minLength=1),
        "content": nullable(any_of(text(), list_of(any_of(text(), PART)))),
        "name": nullable(text()),
        "tool_calls": nullable(list_of(CALL)),
        "tool_call_id": nullable(text()),
        "reasoning_content": nullable(text()),
    },
    "role",
)
TOOL = record(
    {
        "type": one_of("function"),
        "function": record(
            {
                "name": text(minLength=1, maxLength=256),
                "description": nullable(text()),
                "parameters": nullable(record({})),
                "strict": nullable(flag()),
            },
            "name",
        ),
    },
    "type",
    "function",
)
TOOL_CHOICE = any_of(
    one_of("auto", "none", "required"),
    record({"type": one_of("function"), "function": record({"name": text()}, "name")}, "type", "function"),
    record({"type": one_of("allowed_tools"), "allowed_tools": record({})}, "type", "allowed_tools"),
)
RESPONSE_FORMAT = any_of(
    record({"type": one_of("text", "json_object")}, "type", more=False),
    record(
        {
            "type": one_of("json_schema"),
            "json_schema": record({"name": text(), "schema": nullable(record({})), "strict": nullable(flag())}),
        },
        "type",
        "json_schema",
        more=False,
    ),
)

BODY = described(
    {
        "model": nullable(text()),
        "messages": list_of(MESSAGE, minItems=1),
        **SAMPLING,
        "max_tokens": nullable(whole(1)),
        "max_completion_tokens": nullable(whole(1)),
        "n": nullable(whole(1, MOST_CHOICES)),
        "stream": nullable(flag()),
        "stream_options": nullable(STREAM_OPTIONS),
        "logprobs": nullable(flag()),
        "top_logprobs": nullable(whole(0, MOST_LOGPROBS)),
        "response_format": nullable(RESPONSE_FORMAT),
        **FORMS,
        "tools": nullable(list_of(TOOL)),
        "tool_choice": nullable(TOOL_CHOICE),
        "parallel_tool_calls": nullable(flag()),
        "reasoning_effort": nullable(one_of(*EFFORTS)),
        "chat_template": nullable(text()),
        "chat_template_kwargs": nullable(record({})),
        "add_generation_prompt": nullable(flag()),
        "continue_final_message": nullable(flag()),
        "return_token_ids": nullable(flag()),
        "plain_if_no_template": nullable(flag()),  # ours: of a model that does not chat, a text to be continued
        "answer_token_ids": nullable(list_of(whole(0))),  # ours: what the answer begins with; it is streamed first
        "keep_alive": nullable(number()),
        "timeout": nullable(number(exclusiveMinimum=0)),
        "priority": nullable(whole(-(2**31), 2**31)),
        **HARMLESS,
        # known, and followed only where they ask for nothing that is not here
        "modalities": nullable(list_of(text())),
        "audio": ANYTHING,
        "web_search_options": ANYTHING,
        "functions": ANYTHING,
        "function_call": ANYTHING,
        "verbosity": ANYTHING,
        "moderation": ANYTHING,
    },
    ["messages"],
)
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "functions": ([],),
    "function_call": ("none",),
    "verbosity": ("medium",),
    "moderation": (),
}


def ask_of(body: Mapping[str, Any]) -> Ask:
    """Raises: ApiError."""
    refuse(body, _NEUTRAL)
    if (top := body.get("top_logprobs")) is not None and not body.get("logprobs"):
        raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
    if body.get("stream_options") is not None and not body.get("stream"):
        raise invalid("stream_options needs stream: true", "stream_options")
    if not (tools := body.get("tools") or []) and body.get("tool_choice") not in (None, "none", "auto"):
        raise invalid("tool_choice needs tools", "tool_choice")
    continues = bool(body.get("continue_final_message"))
    if body.get("add_generation_prompt") is False and not continues:
        raise invalid("add_generation_prompt: false leaves the model nothing to answer", "add_generation_prompt")
    begun = body.get("answer_token_ids") or []
    if begun and continues:
        raise invalid("an answer begins with tokens or with the last message, not with both", "answer_token_ids")
    return Ask(
        model=body.get("model"),
        messages=body["messages"],
        template=body.get("chat_template"),
        template_kwargs=body.get("chat_template_kwargs") or {},
        reasoning_effort=body.get("reasoning_effort"),
        continue_final=continues,
        begun=begun,
        plain_if_no_template=bool(body.get("plain_if_no_template")),
        tools=tools,
        tool_choice=tool_choice(body.get("tool_choice")),
        parallel_tool_calls=body.get("parallel_tool_calls") is not False,
        form=form(body, body.get("response_format")),
        max_tokens=either(body, "max_completion_tokens", "max_tokens"),
        n=body.get("n") or 1,
        logprobs=(top or 0) if body.get("logprobs") else None,
        return_token_ids=bool(body.get("return_token_ids")),
        keep_alive=body.get("keep_alive"),
        deadline=body.get("timeout"),
        priority=body.get("priority") or 0,
        **choosing(body),
    )


def tool_choice(value: Any) -> Any:
    """``auto``, ``none``, ``required``, a tool by its name, or OpenAI's ``allowed_tools``."""
    return "auto" if value is None else value


async def complete(request: Request) -> Response:
    body = await read_json(request, BODY)
    ask = ask_of(body)
    state = request.app.state
    answering = await unless_gone(request, begin(state.models, state.settings, ask))
    first = head("chatcmpl", "chat.completion", answering)
    if body.get("stream"):
        include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return Streamed(_chunks(answering, first, include_usage), answering, ping=(state.settings.ping, PING))
    async with answering:
        choices = await unless_gone(request, answering.whole())
    whole = {**first, "choices": [_choice(answering, piece) for piece in choices], **ending(answering)}
    if ask.return_token_ids:
        whole["prompt_token_ids"] = answering.prompt_ids[0]
    return JSONResponse(whole)


def _choice(answering: Answering, piece: Piece) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": piece.content, "refusal": None}
    if piece.reasoning:
        message["reasoning_content"] = piece.reasoning
    if piece.tool_calls:
        message["content"] = piece.content or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in piece.tool_calls
        ]
    return {
        "index": piece.index,
        "message": message,
        "logprobs": _logprobs(answering, piece),
        "finish_reason": piece.finish_reason,
        **({"token_ids": piece.token_ids} if answering.ask.return_token_ids else {}),
    }


def _logprobs(answering: Answering, piece: Piece) -> dict[str, Any] | None:
    if answering.ask.logprobs is None:
        return None
    return {"content": logprobs_json(answering.loaded.tokenizer, piece.logprobs), "refusal": None}


async def _chunks(answering: Answering, begins: dict[str, Any], include_usage: bool) -> AsyncGenerator[bytes]:
    begins = {**begins, "object": "chat.completion.chunk"}
    ids = answering.ask.return_token_ids
    usage = {"usage": None} if include_usage else {}
    async with answering:
        first = [
            {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
            for index in range(answering.ask.n)
        ]
        prompt = {"prompt_token_ids": answering.prompt_ids[0]} if ids else {}
        yield event({**begins, "choices": first, **usage, **prompt})
        try:
            async for pieces in answering.pieces():
                chunks = [chunk for piece in pieces for chunk in _deltas(answering, piece)]
                timings = {}
                if not include_usage and len(answering.answers) == answering.ask.n:
                    timings = {"timings": timings_json(answering.timings)}
                if chunks:
                    yield b"".join(
                        event({**begins, "choices": [chunk], **usage, **(timings if chunk["finish_reason"] else {})})
                        for chunk in chunks
                    )
            if include_usage:
                yield event({**begins, "choices": [], **ending(answering)})
        except Exception as error:
            yield event(error_json("/v1/chat/completions", api_error(error)))
        yield DONE


def _deltas(answering: Answering, piece: Piece) -> list[dict[str, Any]]:
    """The chunks of one piece: text, then each call, then how it ended, as OpenAI has them."""
    deltas: list[dict[str, Any]] = []
    if piece.reasoning:
        deltas.append({"reasoning_content": piece.reasoning})
    if piece.content or (not piece.reasoning and not piece.tool_calls and (piece.logprobs or _told(answering, piece))):
        deltas.append({"content": piece.content})
    deltas += [{"tool_calls": [_call_delta(call)]} for call in piece.tool_calls]
    if piece.answer is not None:
        deltas.append({})
    chunks: list[dict[str, Any]] = [
        {"index": piece.index, "delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas
    ]
    if chunks:
        chunks[0]["logprobs"] = _logprobs(answering, piece) if piece.logprobs else None
        if answering.ask.return_token_ids:
            chunks[0]["token_ids"] = piece.token_ids
        if piece.answer is not None:
            chunks[-1]["finish_reason"] = piece.finish_reason
    return chunks


def _told(answering: Answering, piece: Piece) -> bool:
    return answering.ask.return_token_ids and bool(piece.token_ids) and piece.answer is None


def _call_delta(call: ToolDelta) -> dict[str, Any]:
    delta: dict[str, Any] = {"index": call.index}
    if call.id is not None:
        delta |= {"id": call.id, "type": "function"}
    function = {} if call.name is None else {"name": call.name}
    return {**delta, "function": {**function, "arguments": call.arguments}}


CHOICE = record({"index": whole(0), "message": record({"role": text()}), "finish_reason": FINISH}, "index", "message")
ANSWER = record(
    {
        "id": text(),
        "object": {"const": "chat.completion"},
        "created": whole(0),
        "model": text(),
        "choices": list_of(CHOICE, minItems=1),
        "usage": USAGE,
        "timings": nullable(TIMINGS),
    },
    *("id", "object", "created", "model", "choices", "usage"),
)
OPERATIONS = (
    Operation("POST", "/v1/chat/completions", complete, "OpenAI: the next message.", ANSWER, BODY, "text/event-stream"),
)
