"""``/v1/completions``: texts, or token ids, that are continued as they are. Source: OpenAI's API reference (legacy)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
    form,
)
from pellucid.serve.apis.openai_chat import RESPONSE_FORMAT
from pellucid.serve.apis.openai_objects import FINISH, TIMINGS, USAGE, ending, head
from pellucid.serve.http.body import read_json, unless_gone
from pellucid.serve.http.errors import api_error, error_json, invalid
from pellucid.serve.http.operation import Operation
from pellucid.serve.http.schema import ANYTHING, any_of, flag, list_of, nullable, number, record, text, whole
from pellucid.serve.http.stream import DONE, PING, Streamed, event
from pellucid.serve.work.answer import Answering, Piece, begin
from pellucid.serve.work.ask import Ask, refuse

if TYPE_CHECKING:
    from pellucid.sampling import TokenLogprobs
    from pellucid.text.tokenizer import Tokenizer

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
        **FORMS,
        "return_token_ids": nullable(flag()),
        "keep_alive": nullable(number()),
        "timeout": nullable(number(exclusiveMinimum=0)),
        "priority": nullable(whole(-(2**31), 2**31)),
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
        form=form(body, body.get("response_format")),
        max_tokens=body.get("max_tokens"),
        n=n,
        logprobs=logprobs,
        prompt_logprobs=logprobs if echo else None,
        return_token_ids=bool(body.get("return_token_ids")),
        keep_alive=body.get("keep_alive"),
        deadline=body.get("timeout"),
        priority=body.get("priority") or 0,
        **choosing(body),
    )


async def complete(request: Request) -> Response:
    body = await read_json(request, BODY)
    ask = ask_of(body)
    state = request.app.state
    answering = await unless_gone(request, begin(state.models, state.settings, ask))
    first = head("cmpl", "text_completion", answering)
    if body.get("stream"):
        include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return Streamed(_chunks(answering, first, include_usage), answering, ping=(state.settings.ping, PING))
    async with answering:
        pieces = await unless_gone(request, answering.whole())
    choices = [_choice(answering, piece, offset=0, first=True) for piece in pieces]
    return JSONResponse({**first, "choices": choices, **ending(answering)})


def _choice(answering: Answering, piece: Piece, *, offset: int, first: bool) -> dict[str, Any]:
    """One choice, or what is new in it; ``offset``: characters of it before."""
    ask, which = answering.ask, piece.index // answering.ask.n
    echoed = ask.echo and first
    ids = {"token_ids": piece.token_ids} if ask.return_token_ids else {}
    if ask.return_token_ids and first:
        ids["prompt_token_ids"] = answering.prompt_ids[which]
    logprobs = None
    if ask.logprobs is not None:
        told = [(one.token_id, one) for one in piece.logprobs]
        if echoed:
            told = [*zip(answering.prompt_ids[which], piece.prompt_logprobs, strict=True), *told]
        logprobs = _logprobs(answering.loaded.tokenizer, told, offset)
    return {
        "index": piece.index,
        "text": (answering.prepared.prompts[which] if echoed else "") + piece.content,
        "logprobs": logprobs,
        "finish_reason": piece.finish_reason,
        **ids,
    }


def _logprobs(tokenizer: Tokenizer, told: Sequence[tuple[int, TokenLogprobs | None]], offset: int) -> dict[str, Any]:
    """The legacy shape: four lists of a length. A token that is a part of a character reads as U+FFFD; the first of an
    echoed prompt has no log-probability, for nothing came before it.
    """
    texts = [tokenizer.decode([token]) for token, _ in told]
    offsets = []
    for one in texts:
        offsets.append(offset)
        offset += len(one)
    top = [
        None if one is None else {tokenizer.decode([token]): max(value, -9999.0) for token, value in one.top}
        for _, one in told
    ]
    return {
        "tokens": texts,
        "token_logprobs": [None if one is None else max(one.logprob, -9999.0) for _, one in told],
        "top_logprobs": top,
        "text_offset": offsets,
    }


async def _chunks(answering: Answering, begins: dict[str, Any], include_usage: bool) -> AsyncGenerator[bytes]:
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
                        chunks.append(event({**begins, "choices": [choice], **usage}))
                if chunks:
                    yield b"".join(chunks)
            if include_usage:
                yield event({**begins, "choices": [], **ending(answering)})
        except Exception as error:
            yield event(error_json("/v1/completions", api_error(error)))
        yield DONE


CHOICE = record({"index": whole(0), "text": text(), "finish_reason": FINISH}, "index", "text")
ANSWER = record(
    {
        "id": text(),
        "object": {"const": "text_completion"},
        "created": whole(0),
        "model": text(),
        "choices": list_of(CHOICE, minItems=1),
        "usage": USAGE,
        "timings": nullable(TIMINGS),
    },
    *("id", "object", "created", "model", "choices", "usage"),
)
OPERATIONS = (
    Operation("POST", "/v1/completions", complete, "OpenAI: how a text goes on.", ANSWER, BODY, "text/event-stream"),
)
