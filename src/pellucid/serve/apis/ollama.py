"""Ollama's API. Source: github.com/ollama/ollama, docs/api.md. Streams are JSON lines, and on unless switched off."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pellucid.base.version import __version__
from pellucid.serve.apis.ollama_objects import (
    KEEP_ALIVE,
    OPTIONS,
    choosing,
    details,
    durations,
    keep_alive,
    model_json,
    now,
    time_text,
)
from pellucid.serve.apis.openai_chat import TOOL
from pellucid.serve.apis.openai_objects import logprobs_json
from pellucid.serve.http.body import read_json, unless_gone
from pellucid.serve.http.errors import ApiError, api_error, error_json, invalid
from pellucid.serve.http.operation import Operation
from pellucid.serve.http.schema import (
    ANYTHING,
    Schema,
    any_of,
    flag,
    list_of,
    nullable,
    one_of,
    record,
    text,
    whole,
)
from pellucid.serve.http.stream import Streamed, line
from pellucid.serve.work.answer import Answering, Piece, begin
from pellucid.serve.work.ask import Ask, refuse

THINK = nullable(any_of(flag(), one_of("low", "medium", "high")))
FORMAT = nullable(any_of(one_of("", "json"), record({})))
CALL = record({"function": record({"name": text(), "arguments": record({})}, "name")}, "function")
MESSAGE = record(
    {
        "role": text(minLength=1),
        "content": nullable(text()),
        "thinking": nullable(text()),
        "images": nullable(list_of(ANYTHING)),
        "tool_calls": nullable(list_of(CALL)),
        "tool_name": nullable(text()),
        "tool_call_id": nullable(text()),
    },
    "role",
)
_COMMON: dict[str, Schema] = {
    "model": text(minLength=1),
    "format": FORMAT,
    "options": OPTIONS,
    "stream": nullable(flag()),
    "keep_alive": KEEP_ALIVE,
    "think": THINK,
    "logprobs": nullable(flag()),
    "top_logprobs": nullable(whole(0, 20)),
    "truncate": ANYTHING,
    "shift": ANYTHING,
}
CHAT = record(
    {**_COMMON, "messages": nullable(list_of(MESSAGE)), "tools": nullable(list_of(TOOL))}, "model", more=False
)
GENERATE = record(
    {
        **_COMMON,
        "prompt": nullable(text()),
        "suffix": nullable(text()),
        "system": nullable(text()),
        "template": nullable(text()),
        "raw": nullable(flag()),
        "images": nullable(list_of(ANYTHING)),
        "context": nullable(list_of(whole(0))),
    },
    "model",
    more=False,
)
SHOW = record({"model": text(), "name": text(), "verbose": nullable(flag())}, more=False)


def _common(body: dict[str, Any]) -> dict[str, Any]:
    """The fields of ``Ask`` that both endpoints have."""
    form, think = body.get("format"), body.get("think")
    effort = None if think is None else (think if isinstance(think, str) else "medium" if think else "none")
    return {
        "model": body["model"],
        "form": None if not form else {"json_schema": {"type": "object"} if form == "json" else form},
        "reasoning_effort": effort,
        "keep_alive": keep_alive(body.get("keep_alive")),
        "logprobs": (body.get("top_logprobs") or 0) if body.get("logprobs") else None,
        **choosing(body.get("options")),
    }


async def chat(request: Request) -> Response:
    body = await read_json(request, CHAT)
    messages = body.get("messages") or []
    if not messages:
        return await _load(request, body, {"message": {"role": "assistant", "content": ""}})
    for message in messages:
        if message.get("images"):
            raise invalid("images cannot be read here; only text can", "messages")
    ask = Ask(messages=messages, tools=body.get("tools") or [], **_common(body))
    return await _answer(request, body, ask, _message)


async def generate(request: Request) -> Response:
    body = await read_json(request, GENERATE)
    refuse(body, {"suffix": ("",), "template": ("",), "images": ([],), "context": ([],)})
    prompt = body.get("prompt") or ""
    if not prompt and not body.get("raw"):
        return await _load(request, body, {"response": ""})
    if body.get("raw"):
        if body.get("system"):
            raise invalid("system needs a template, which raw: true leaves out", "system")
        ask = Ask(prompts=[prompt], **_common(body))
    else:
        system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
        ask = Ask(messages=[*system, {"role": "user", "content": prompt}], plain_if_no_template=True, **_common(body))
    return await _answer(request, body, ask, _response)


def _message(answering: Answering, piece: Piece, whole: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": piece.content}
    if piece.reasoning:
        message["thinking"] = piece.reasoning
    if piece.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "function": {"name": call.name, "arguments": call.values}}
            for call in piece.tool_calls
            if call.values is not None
        ]
    return {"message": message}


def _response(answering: Answering, piece: Piece, whole: bool) -> dict[str, Any]:
    thinking = {"thinking": piece.reasoning} if piece.reasoning else {}
    return {"response": piece.content, **thinking}


Shape = Callable[[Answering, Piece, bool], dict[str, Any]]


async def _answer(request: Request, body: dict[str, Any], ask: Ask, shape: Shape) -> Response:
    state = request.app.state
    answering = await unless_gone(request, begin(state.models, state.settings, ask))
    if body.get("stream") is not False:
        return Streamed(
            _lines(request.url.path, answering, body["model"], shape), answering, media_type="application/x-ndjson"
        )
    async with answering:
        piece = (await unless_gone(request, answering.whole()))[0]
    head = {"model": body["model"], "created_at": now()}
    return JSONResponse(
        {**head, **shape(answering, piece, True), **_logprobs(answering, piece), **_end(answering, piece)}
    )


def _end(answering: Answering, piece: Piece) -> dict[str, Any]:
    reason = "length" if piece.finish_reason == "length" else "stop"
    return {"done": True, "done_reason": reason, **durations(answering)}


def _logprobs(answering: Answering, piece: Piece) -> dict[str, Any]:
    if answering.ask.logprobs is None or not piece.logprobs:
        return {}
    return {"logprobs": logprobs_json(answering.loaded.tokenizer, piece.logprobs)}


async def _lines(path: str, answering: Answering, model: str, shape: Shape) -> AsyncGenerator[bytes]:
    """A line a piece; a call in one line, when all of it is there, as Ollama's clients want it."""
    calls: dict[int, Any] = {}
    async with answering:
        try:
            async for pieces in answering.pieces():
                for piece in pieces:
                    head = {"model": model, "created_at": now()}
                    for delta in piece.tool_calls:
                        if delta.index in calls:
                            calls[delta.index].arguments += delta.arguments
                        else:
                            calls[delta.index] = delta
                    piece.tool_calls = []
                    if piece.content or piece.reasoning or piece.logprobs:
                        yield line(
                            {**head, **shape(answering, piece, False), **_logprobs(answering, piece), "done": False}
                        )
                    if piece.answer is not None:
                        last = Piece(piece.index, tool_calls=list(calls.values()))
                        if calls:
                            yield line({**head, **shape(answering, last, False), "done": False})
                        last.tool_calls = []
                        yield line({**head, **shape(answering, last, True), **_end(answering, piece)})
        except Exception as error:
            yield line(error_json(path, api_error(error)))


async def _load(request: Request, body: dict[str, Any], empty: dict[str, Any]) -> Response:
    """Nothing to answer: the model is loaded, or with ``keep_alive: 0`` given back."""
    state = request.app.state
    seconds = keep_alive(body.get("keep_alive"))
    async with state.models.use(body["model"], state.settings, seconds):
        pass
    reason = "unload" if seconds == 0 else "load"
    return JSONResponse({"model": body["model"], "created_at": now(), **empty, "done": True, "done_reason": reason})


async def tags(request: Request) -> Response:
    return JSONResponse({"models": [model_json(one) for one in request.app.state.models.models]})


async def running(request: Request) -> Response:
    models = []
    for model in request.app.state.models.models:
        if model.loaded is None:
            continue
        expires = model.expires
        models.append(
            {
                **model_json(model),
                "expires_at": time_text(4102444800.0 if expires is None else expires),  # 2100: it stays
                "size_vram": 0,
                "context_length": model.loaded.engine.context_len,
            }
        )
    return JSONResponse({"models": models})


async def show(request: Request) -> Response:
    body = await read_json(request, SHOW)
    name = body.get("model") or body.get("name")
    if not name:
        raise ApiError(400, "Missing required parameter: 'model'.", param="model")
    state = request.app.state
    async with state.models.use(name, state.settings) as (model, worker):
        if worker.loaded is None:
            raise ApiError(503, "the model could not be loaded", code="unavailable")
        config, tokenizer = worker.loaded.checkpoint.config, worker.loaded.tokenizer
        template = state.settings.template or tokenizer.chat_template
        template = template if isinstance(template, str) else (template or {}).get("default", "")
        family = config.model_type
        capabilities = ["completion", *(["tools"] if "tools" in template else [])]
        if "thinking" in template or "<think>" in template:
            capabilities.append("thinking")
        return JSONResponse(
            {
                "modelfile": f"FROM {model.source or model.name}\n",
                "parameters": "",
                "template": template,
                "details": details(model),
                "model_info": {
                    "general.architecture": family,
                    f"{family}.context_length": config.longest_context,
                    f"{family}.embedding_length": config.d_model,
                    f"{family}.block_count": len(config.layers),
                    f"{family}.vocab_size": config.vocab_size,
                },
                "capabilities": capabilities,
                "modified_at": time_text(model.created),
            }
        )


async def version(request: Request) -> Response:
    return JSONResponse({"version": __version__})


NDJSON = "application/x-ndjson"
DONE = record({"model": text(), "created_at": text(), "done": flag()}, "model", "done")
LIST = record({"models": list_of(record({"name": text(), "model": text()}, "name", "model"))}, "models")
OPERATIONS = (
    Operation("POST", "/api/chat", chat, "Ollama: the next message of a conversation.", DONE, CHAT, NDJSON),
    Operation("POST", "/api/generate", generate, "Ollama: an answer to a prompt.", DONE, GENERATE, NDJSON),
    Operation("GET", "/api/tags", tags, "Ollama: the models there are.", LIST),
    Operation("GET", "/api/ps", running, "Ollama: the models that are loaded.", LIST),
    Operation("POST", "/api/show", show, "Ollama: what is known of a model.", record({"template": text()}), SHOW),
    Operation("GET", "/api/version", version, "Ollama: the server's version.", record({"version": text()}, "version")),
)
