"""llama-server's small paths: tokens, templates, what is served. ``/tokenize`` and ``/detokenize`` speak vLLM's too."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pellucid.base.version import __version__
from pellucid.serve.apis.openai_chat import EFFORTS, MESSAGE, TOOL
from pellucid.serve.http.body import read_json
from pellucid.serve.http.errors import ApiError, invalid
from pellucid.serve.http.operation import Operation
from pellucid.serve.http.schema import (
    ANYTHING,
    any_of,
    flag,
    list_of,
    nullable,
    one_of,
    record,
    text,
    whole,
)
from pellucid.serve.work.ask import Ask
from pellucid.serve.work.conversation import conversation
from pellucid.serve.work.metrics import exposition
from pellucid.serve.work.spelling import spelled
from pellucid.serve.work.worker import Loaded

CONVERSATION = {
    "messages": list_of(MESSAGE, minItems=1),
    "tools": nullable(list_of(TOOL)),
    "chat_template": nullable(text()),
    "chat_template_kwargs": nullable(record({})),
    "reasoning_effort": nullable(one_of(*EFFORTS)),
    "continue_final_message": nullable(flag()),
}
TOKENIZE = record(
    {
        "model": nullable(text()),
        "content": text(),
        "prompt": text(),
        "add_special": nullable(flag()),
        "add_special_tokens": nullable(flag()),
        "parse_special": nullable(one_of(True)),
        "with_pieces": nullable(flag()),
        "return_token_strs": nullable(flag()),
        **CONVERSATION,
    },
    more=False,
)
DETOKENIZE = record({"model": nullable(text()), "tokens": list_of(whole(0, 2**32 - 1))}, "tokens", more=False)
TEMPLATE = record({"model": nullable(text()), **CONVERSATION}, "messages", more=False)
TOKENS = record(
    {"tokens": list_of(any_of(whole(0), record({"id": whole(0), "piece": ANYTHING}))), "count": whole(0)},
    "tokens",
    "count",
)


def asked_of(body: dict[str, Any]) -> Ask:
    """The ask of a body that holds ``CONVERSATION``."""
    return Ask(
        messages=body["messages"],
        tools=body.get("tools") or [],
        template=body.get("chat_template"),
        template_kwargs=body.get("chat_template_kwargs") or {},
        reasoning_effort=body.get("reasoning_effort"),
        continue_final=bool(body.get("continue_final_message")),
    )


async def with_model(request: Request, name: str | None, work: Any, *arguments: Any) -> Any:
    """Something that takes a model's tokenizer and perhaps a while: in a thread, the model loaded meanwhile."""
    state = request.app.state
    async with state.models.use(name, state.settings) as (_, worker):
        if worker.loaded is None:
            raise ApiError(503, "the model could not be loaded", code="unavailable")
        return await asyncio.to_thread(work, worker.loaded, *arguments)


async def tokenize(request: Request) -> Response:
    body = await read_json(request, TOKENIZE)
    named = [name for name in ("content", "prompt", "messages") if name in body]
    if len(named) != 1:
        raise invalid("send one of content, prompt and messages", named[1] if named else "content")
    return JSONResponse(
        await with_model(request, body.get("model"), _tokenize, body, request.app.state.settings.template)
    )


def _tokenize(loaded: Loaded, body: dict[str, Any], template: str | None) -> dict[str, Any]:
    tokenizer = loaded.tokenizer
    if "messages" in body:
        ids = conversation(tokenizer, asked_of(body), template).token_ids
    else:  # llama-server adds nothing unless asked, vLLM does unless asked not to
        special = body.get("add_special_tokens", True) if "prompt" in body else body.get("add_special", False)
        ids = tokenizer.encode(str(body.get("content", body.get("prompt"))), add_special_tokens=bool(special))
    answer: dict[str, Any] = {"tokens": ids, "count": len(ids), "max_model_len": loaded.engine.context_len}
    if body.get("with_pieces"):
        answer["tokens"] = [{"id": token, "piece": _piece(spelled(tokenizer, token))} for token in ids]
    if body.get("return_token_strs"):
        answer["token_strs"] = tokenizer.convert_ids_to_tokens(ids)
    return answer


def _piece(data: bytes) -> str | list[int]:
    """A text, or where the bytes are none, these; as llama-server has it."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


async def detokenize(request: Request) -> Response:
    body = await read_json(request, DETOKENIZE)
    content = await with_model(request, body.get("model"), lambda loaded: loaded.tokenizer.decode(body["tokens"]))
    return JSONResponse({"content": content, "prompt": content})


async def apply_template(request: Request) -> Response:
    body = await read_json(request, TEMPLATE)
    template = request.app.state.settings.template
    prompt = await with_model(
        request,
        body.get("model"),
        lambda loaded: conversation(loaded.tokenizer, asked_of(body), template).text,
    )
    return JSONResponse({"prompt": prompt})


async def props(request: Request) -> Response:
    """What is served, of the first model, or of ``?model=``."""
    state = request.app.state
    async with state.models.use(request.query_params.get("model"), state.settings) as (model, worker):
        loaded = worker.loaded
        if loaded is None:
            raise ApiError(503, "the model could not be loaded", code="unavailable")
        tokenizer, template = loaded.tokenizer, state.settings.template or loaded.tokenizer.chat_template
        return JSONResponse(
            {
                "default_generation_settings": {"n_ctx": loaded.engine.context_len},
                "total_slots": model.max_batch,
                "model_alias": model.name,
                "model_path": str(loaded.checkpoint.path),
                "chat_template": template if isinstance(template, str) else (template or {}).get("default", ""),
                "bos_token": tokenizer.bos_token or "",
                "eos_token": tokenizer.eos_token or "",
                "modalities": {"vision": False, "audio": False},
                "build_info": f"pellucid-{__version__}",
            }
        )


async def metrics(request: Request) -> Response:
    models = {}
    for model in request.app.state.models.models:
        if (worker := model.worker) is not None:
            running = min(worker.in_line, model.max_batch)
            models[model.name] = (worker.metrics, running, worker.in_line - running)
    return Response(exposition(models), media_type="text/plain; version=0.0.4")


OPERATIONS = (
    Operation("POST", "/tokenize", tokenize, "A text's, or a conversation's, token ids.", TOKENS, TOKENIZE),
    Operation(
        "POST", "/detokenize", detokenize, "The text of token ids.", record({"content": text()}, "content"), DETOKENIZE
    ),
    Operation(
        "POST",
        "/apply-template",
        apply_template,
        "A conversation as the model reads it.",
        record({"prompt": text()}, "prompt"),
        TEMPLATE,
    ),
    Operation("GET", "/props", props, "What is served.", record({"total_slots": whole(1)}), errors=(404,)),
    Operation("GET", "/metrics", metrics, "Counters and clocks, for Prometheus.", text(), media_type="text/plain"),
)
