"""``/v1/completions``: texts, or token ids, that are continued as they are. Source: OpenAI's API reference (legacy)."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pellucid.serve.apis.fields import (
    HARMLESS,
    MOST_CHOICES,
    MOST_LOGPROBS,
    SAMPLING,
    STREAM_OPTIONS,
    choosing,
    described,
)
from pellucid.serve.apis.openai_chat import FINGERPRINT, RESPONSE_FORMAT, form
from pellucid.serve.apis.openai_objects import ending, timings_json, usage_json
from pellucid.serve.http.body import read_json, unless_gone
from pellucid.serve.http.errors import api_error, error_json, invalid
from pellucid.serve.http.schema import ANYTHING, any_of, flag, list_of, nullable, number, text, whole
from pellucid.serve.http.stream import DONE, PING, Streamed, event
from pellucid.serve.work.answer import Answering, Piece, begin
from pellucid.serve.work.ask import Ask, refuse

if TYPE_CHECKING:
    from pellucid.sampling import TokenLogprobs

MOST_PROMPTS = 256
IDS = list_of(whole(0), minItems=1)

BODY = described(
    {
        "model": nullable(text()),
        "prompt": any_of(
            text(),
            list_of(text(), minItems=1, maxItems=MOST_PROMPTS),
            IDS,
            list_of(IDS, minItems=1, maxItems=MOST_PROMPTS),
        ),
        **SAMPLING,
        "max_tokens": nullable(whole(1)),
        "n": nullable(whole(1, MOST_CHOICES)),
        "best_of": nullable(whole(1)),
        "stream": nullable(flag()),
        "stream_options": nullable(STREAM_OPTIONS),
        "logprobs": nullable(whole(0, MOST_LOGPROBS)),
        "echo": nullable(flag()),
        "suffix": nullable(text()),
        "response_format": nullable(RESPONSE_FORMAT),
        "return_token_ids": nullable(flag()),
        "keep_alive": nullable(number()),
        "timeout": nullable(number(exclusiveMinimum=0)),
        **HARMLESS,
        "add_special_tokens": ANYTHING,
    },
    ["prompt"],
)


def ask_of(body: Mapping[str, Any]) -> Ask:
    """Raises: ApiError."""
    n = body.get("n") or 1
    refuse(body, {"suffix": ("",), "best_of": (n,), "add_special_tokens": (True,)})
    if body.get("stream_options") is not None and not body.get("stream"):
        raise invalid("stream_options needs stream: true", "stream_options")
    prompt = body["prompt"]
    prompts = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
    echo = bool(body.get("echo"))
    logprobs = body.get("logprobs")
    return Ask(
        model=body.get("model"),
        prompts=prompts,
        echo=echo,
        form=form(body.get("response_format")),
        max_tokens=body.get("max_tokens"),
        n=n,
        logprobs=logprobs,
        prompt_logprobs=logprobs if echo else None,
        return_token_ids=bool(body.get("return_token_ids")),
        keep_alive=body.get("keep_alive"),
        deadline=body.get("timeout"),
        **choosing(body),
    )


async def complete(request: Request) -> Response:
    body = await read_json(request, BODY)
    ask = ask_of(body)
    state = request.app.state
    answering = await unless_gone(request, begin(state.models, state.settings, ask))
    head = {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": answering.created,
        "model": answering.model.name,
        "system_fingerprint": FINGERPRINT,
    }
    if body.get("stream"):
        include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return Streamed(_chunks(answering, head, include_usage), ping=(state.settings.ping, PING))
    async with answering:
        pieces = await unless_gone(request, answering.whole())
    choices = [_choice(answering, piece, offset=0, first=True) for piece in pieces]
    return JSONResponse({**head, "choices": choices, **ending(answering)})


def _choice(answering: Answering, piece: Piece, *, offset: int, first: bool) -> dict[str, Any]:
    """One choice, or what is new in it; ``offset``: characters of it before."""
    ask, which = answering.ask, piece.index // answering.ask.n
    prompt = answering.prepared.prompts[which] if ask.echo and first else ""
    ids = {"token_ids": piece.token_ids} if ask.return_token_ids else {}
    if ask.return_token_ids and first:
        ids["prompt_token_ids"] = answering.prompt_ids[which]
    return {
        "index": piece.index,
        "text": prompt + piece.content,
        "logprobs": None if ask.logprobs is None else _logprobs(answering, piece.logprobs, offset + len(prompt)),
        "finish_reason": piece.finish_reason,
        **ids,
    }


def _logprobs(answering: Answering, tokens: list[TokenLogprobs], offset: int) -> dict[str, Any]:
    """The legacy shape: four lists of a length. A token that is a part of a character reads as U+FFFD."""
    decode = answering.loaded.tokenizer.decode
    texts = [decode([one.token_id]) for one in tokens]
    offsets = []
    for one in texts:
        offsets.append(offset)
        offset += len(one)
    return {
        "tokens": texts,
        "token_logprobs": [max(one.logprob, -9999.0) for one in tokens],
        "top_logprobs": [{decode([token]): max(value, -9999.0) for token, value in one.top} for one in tokens],
        "text_offset": offsets,
    }


async def _chunks(answering: Answering, head: dict[str, Any], include_usage: bool) -> AsyncGenerator[bytes]:
    usage = {"usage": None} if include_usage else {}
    offsets: dict[int, int] = {}
    async with answering:
        try:
            async for pieces in answering.pieces():
                chunks = []
                for piece in pieces:
                    first = piece.index not in offsets
                    choice = _choice(answering, piece, offset=offsets.get(piece.index, 0), first=first)
                    offsets[piece.index] = offsets.get(piece.index, 0) + len(choice["text"])
                    if choice["text"] or choice["finish_reason"] or piece.logprobs or answering.ask.return_token_ids:
                        chunks.append(event({**head, "choices": [choice], **usage}))
                if chunks:
                    yield b"".join(chunks)
            if include_usage:
                end = {"usage": usage_json(answering.usage), "timings": timings_json(answering.timings)}
                yield event({**head, "choices": [], **end})
        except Exception as error:
            yield event(error_json("/v1/completions", api_error(error)))
        yield DONE
