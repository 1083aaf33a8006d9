"""``Answering``: an ask that is being answered. Pieces come as the model writes them, one a choice and a wake-up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pellucid.serve.http.errors import ApiError
from pellucid.serve.work.ask import Ask
from pellucid.serve.work.prepare import Prepared, prepare
from pellucid.serve.work.worker import Loaded, Stream

if TYPE_CHECKING:
    from pellucid.generate.result import Answer, Event, Timings
    from pellucid.sampling import TokenLogprobs
    from pellucid.serve.settings import Settings
    from pellucid.serve.work.models import Model, Models
    from pellucid.serve.work.reader import Reader
    from pellucid.text.tools.deltas import Delta


@dataclass
class ToolDelta:
    """A tool call, or a piece of one: id and name come once, then the arguments' text in pieces."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""

    @property
    def values(self) -> dict[str, Any] | None:
        """The arguments of a whole call; None where the answer was cut off in them."""
        return arguments_of(self.arguments)


@dataclass
class Piece:
    """What is new in one choice; ``answer`` in its last."""

    index: int
    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolDelta] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: Sequence[TokenLogprobs | None] = ()  # of a choice's first piece
    answer: Answer | None = None
    called: bool = False  # whether the choice has called a tool, by now

    @property
    def finish_reason(self) -> str | None:
        """OpenAI's word for how the choice ended; None where it goes on."""
        if self.answer is None:
            return None
        return "tool_calls" if self.called and self.answer.finish_reason == "stop" else self.answer.finish_reason


@dataclass
class Usage:
    """Tokens of a whole request: of its prompts, of these reused, and of its answers."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0


class Answering:
    """Owns its model's use and its stream: close it (``async with``), and what is unfinished is cancelled."""

    def __init__(self, ask: Ask, model: Model, loaded: Loaded, prepared: Prepared, stream: Stream) -> None:
        self.ask, self.model, self.loaded, self.prepared = ask, model, loaded, prepared
        self.created = int(time.time())
        self.answers: dict[int, Answer] = {}
        self._stream = stream
        self._closing = contextlib.AsyncExitStack()

    @property
    def prompt_ids(self) -> list[list[int]]:
        begun = len(self.ask.begun)
        return [list(request.prompt_ids)[: len(request.prompt_ids) - begun] for request in self.prepared.requests]

    @property
    def usage(self) -> Usage:
        """By now; each prompt counts once, though it has several answers."""
        usage = Usage(prompt=sum(len(request.prompt_ids) for request in self.prepared.requests))
        for choice, answer in self.answers.items():
            usage.completion += answer.timings.new_tokens
            if choice % self.ask.n == 0:
                usage.cached += answer.timings.reused_tokens
            usage.reasoning += self.prepared.readers[choice].reasoning_tokens
        return usage

    @property
    def timings(self) -> Timings | None:
        """Of the first choice that ended."""
        return next((answer.timings for _, answer in sorted(self.answers.items())), None)

    async def pieces(self) -> AsyncGenerator[list[Piece]]:
        """Raises: ApiError, and what ended an answer before its time."""
        readers = self.prepared.readers
        begun = [_read(Piece(choice), reader.begin(self.ask.begun)) for choice, reader in enumerate(readers)]
        if self.ask.begun:
            yield begun
        async for batch in self._stream.batches():
            pieces: dict[int, Piece] = {}
            for choice, event in batch:
                piece = pieces.setdefault(choice, Piece(choice))
                self._take(piece, event, readers[choice])
            yield list(pieces.values())

    def _take(self, piece: Piece, event: Event, reader: Reader) -> None:
        if event.token_id is not None:
            piece.token_ids.append(event.token_id)
        if event.logprobs is not None:
            piece.logprobs.append(event.logprobs)
        if event.prompt_logprobs is not None:
            piece.prompt_logprobs = event.prompt_logprobs
        if event.answer is not None:
            piece.answer = self.answers[piece.index] = event.answer
            if event.answer.error is not None:
                raise event.answer.error
            if event.answer.finish_reason == "cancelled":
                raise ApiError(503, "the answer was cancelled", code="cancelled")
        _read(piece, reader.push(event))
        piece.called = reader.called

    async def whole(self) -> list[Piece]:
        """All choices, finished, in order."""
        wholes: dict[int, Piece] = {}
        async for pieces in self.pieces():
            for piece in pieces:
                if (whole := wholes.get(piece.index)) is None:
                    wholes[piece.index] = piece
                else:
                    _append(whole, piece)
        return [wholes[index] for index in sorted(wholes)]

    async def __aenter__(self) -> Answering:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self._stream.close()
        await self._closing.aclose()


def _read(piece: Piece, deltas: Sequence[Delta]) -> Piece:
    """The piece, with what its reader tells."""
    for delta in deltas:
        piece.content += delta.content
        piece.reasoning += delta.reasoning
        if (call := delta.call) is not None:
            known = piece.tool_calls[-1] if piece.tool_calls else None
            if known is not None and known.index == call.index:
                known.arguments += call.arguments
            else:
                piece.tool_calls.append(ToolDelta(call.index, call.id, call.name, call.arguments))
    return piece


def _append(whole: Piece, piece: Piece) -> None:
    whole.content += piece.content
    whole.reasoning += piece.reasoning
    whole.token_ids += piece.token_ids
    whole.logprobs += piece.logprobs
    whole.answer, whole.called = piece.answer, whole.called or piece.called
    for delta in piece.tool_calls:
        if known := next((call for call in whole.tool_calls if call.index == delta.index), None):
            known.id, known.name = known.id or delta.id, known.name or delta.name
            known.arguments += delta.arguments
        else:
            whole.tool_calls.append(ToolDelta(delta.index, delta.id, delta.name, delta.arguments))


def arguments_of(text: str) -> dict[str, Any] | None:
    """A call's arguments as an object; None where they are not whole."""
    try:
        values = json.loads(text)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


async def begin(models: Models, settings: Settings, ask: Ask) -> Answering:
    """Load, prepare and put in line. What comes back must be closed.

    Raises: ApiError, and what the model says of a request that it cannot answer.
    """
    async with contextlib.AsyncExitStack() as stack:
        model, worker = await stack.enter_async_context(models.use(ask.model, settings, ask.keep_alive))
        loaded = worker.loaded
        if loaded is None:
            raise ApiError(503, f"the model {model.name!r} could not be loaded", code="unavailable")
        deadline = min((limit for limit in (ask.deadline, settings.deadline) if limit is not None), default=None)
        prepared = await asyncio.to_thread(prepare, loaded, ask, settings.template)
        stream = await worker.submit(prepared.requests)
        answering = Answering(ask, model, loaded, prepared, stream)
        if deadline is not None:
            late = ApiError(504, f"the answer was not complete within {deadline:g} s", code="timeout")
            timer = asyncio.get_running_loop().call_later(deadline, _late, stream, late)
            stack.callback(timer.cancel)
        answering._closing = stack.pop_all()
        return answering
    raise AssertionError


def _late(stream: Stream, error: ApiError) -> None:
    if stream.unfinished and not stream.closed:
        stream.worker.cancel(stream)
        stream.fail(error)
