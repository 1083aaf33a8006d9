"""Why a token: the run up to it once more, with every number recorded, open as the explain page.

``POST /why`` records the run of some token ids by the model that answers, with its own weights: by the very decoder
where torch answers, by the compiled program with its taps on where native does, whose numbers are those of the answer
bit for bit. What was recorded is served under ``/why/TOKEN/`` as the explain page (``explain.show``), to whoever knows
that token. The last few are kept.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pellucid.serve.http.body import read_json
from pellucid.serve.http.errors import ApiError, busy, error_response, invalid
from pellucid.serve.http.schema import list_of, nullable, record, text, whole

if TYPE_CHECKING:
    from pellucid.config import ModelConfig
    from pellucid.explain.subject import Subject
    from pellucid.serve.work.worker import Loaded

MOST = 3  # explanations that are kept
MOST_WAITING = 4  # that are recorded or wait to be; more get 429
MOST_BYTES = 2**31  # of the numbers of one; less where the machine has little left
KEPT_BYTES = 3 * 2**30  # of all that are kept
OPEN_UNDER = ("/why/",)  # the token in the path is the key

BODY = record({"model": nullable(text()), "token_ids": list_of(whole(0), minItems=1)}, "token_ids", more=False)


@dataclass(frozen=True)
class Explanation:
    """A recorded run: whose it is, its page, whose numbers they are ("native" or "torch"), and how many bytes."""

    model: weakref.ref[Loaded]
    page: ASGIApp
    executor: str
    nbytes: int


class Explanations:
    """The last explanations of one server, by their tokens. Those of a model that is given back go with it. Safe to use
    from several threads.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._kept: OrderedDict[str, Explanation] = OrderedDict()
        self._subject: tuple[weakref.ref[Loaded], Subject] | None = None  # of the model that was explained last
        self._one_at_a_time, self._places = threading.Lock(), threading.BoundedSemaphore(MOST_WAITING)

    def get(self, token: str) -> Explanation | None:
        explanation = self._kept.get(token)
        if explanation is not None:
            self._kept.move_to_end(token)
        return explanation

    def add(self, name: str, loaded: Loaded, token_ids: Sequence[int]) -> tuple[str, Explanation]:
        """Record a run. Raises: ApiError where it would take too much, or too many wait."""
        if not self._places.acquire(blocking=False):
            raise busy("other explanations are being recorded", 10)
        try:
            with self._one_at_a_time:
                explanation = self._explain(name, loaded, token_ids)
        finally:
            self._places.release()
        token = secrets.token_urlsafe(16)
        self._kept[token] = explanation
        while len(self._kept) > self.most or (
            len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > KEPT_BYTES
        ):
            self._kept.popitem(last=False)
        return token, explanation

    def _forget(self, model: weakref.ref[Loaded]) -> None:
        for token in [token for token, kept in list(self._kept.items()) if kept.model is model]:
            self._kept.pop(token, None)
        if self._subject is not None and self._subject[0] is model:
            self._subject = None

    def _explain(self, name: str, loaded: Loaded, token_ids: Sequence[int]) -> Explanation:
        from pellucid.explain.show.asgi import page_app
        from pellucid.explain.show.view import View

        config = loaded.checkpoint.config
        if max(token_ids) >= config.vocab_size:
            raise invalid(f"this model has no token {max(token_ids)}", "token_ids")
        is_native = getattr(loaded.engine.executor, "twin", None) is not None
        needed = bytes_of(config, len(token_ids)) * (2 if is_native else 1)  # native's run, and torch's beside it
        most = min(MOST_BYTES, free_memory() / 4)
        if needed > most:
            raise invalid(
                f"the run of these {len(token_ids)} tokens is too long to be recorded whole: its numbers take "
                f"{needed / 2**20:,.0f} MiB, and {most / 2**20:,.0f} are the most here. Open a token nearer to the "
                "beginning, or ask in a new conversation",
                "token_ids",
                "context_length_exceeded",
            )
        if self._subject is None or self._subject[0]() is not loaded:
            self._subject = None  # before the next is there, not beside it
            self._subject = weakref.ref(loaded, self._forget), subject_of(name, loaded)
        model, subject = self._subject
        view = View(subject, first=subject.record(list(token_ids)))
        return Explanation(model, page_app(view), "torch" if subject.native is None else "native", needed)


def subject_of(name: str, loaded: Loaded) -> Subject:
    """The model that answers, made to be explained. Raises: ApiError where there is no memory for its twin in torch."""
    from pellucid.explain.subject import Subject
    from pellucid.model.load import load_decoder

    executor, checkpoint = loaded.engine.executor, loaded.checkpoint
    decoder = getattr(executor, "decoder", None)
    if decoder is not None:
        return Subject.of(checkpoint, decoder, loaded.tokenizer, name)
    needed, free = 4 * checkpoint.config.num_parameters(), free_memory()
    if needed > free:
        raise ApiError(
            503,
            f"explaining needs the model in float32 beside the one that answers: {needed / 2**30:.1f} GiB, and "
            f"{free / 2**30:.1f} are free",
            code="unavailable",
        )
    if (twin := getattr(executor, "twin", None)) is not None:
        from pellucid.explain.native import Native

        weights, settings = twin
        native = Native(checkpoint.config, weights, **settings)
        return Subject.of(checkpoint, native.decoder, loaded.tokenizer, name, native)
    decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    return Subject.of(checkpoint, decoder, loaded.tokenizer, name)


def bytes_of(config: ModelConfig, length: int) -> int:
    """What recording a run of so many tokens takes."""
    from pellucid.operations import taps_of

    return 4 * sum(math.prod(tap.shape(1, length, length)) for tap in taps_of(config).values())


def free_memory() -> float:
    """Bytes that the machine can still give; infinite where it does not say."""
    try:
        told = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        told = None
    return int(told[1]) * 1024 if told else math.inf


def why_routes(explanations: Explanations) -> list[BaseRoute]:
    async def explain(request: Request) -> JSONResponse:
        body, state = await read_json(request, BODY), request.app.state
        async with state.models.use(body.get("model"), state.settings) as (model, worker):
            if (loaded := worker.loaded) is None:
                raise ApiError(503, f"the model {model.name!r} could not be loaded", code="unavailable")
            ids = body["token_ids"]
            token, explanation = await asyncio.to_thread(explanations.add, model.name, loaded, ids)
        told: dict[str, Any] = {"url": f"why/{token}/", "position": len(ids) - 1, "executor": explanation.executor}
        return JSONResponse({**told, "kept": explanations.most})

    async def pages(scope: Scope, receive: Receive, send: Send) -> None:
        token, _, rest = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix("/").partition("/")
        explanation = explanations.get(token)
        if explanation is None:
            error = ApiError(404, "this explanation is not kept any more; open the token again in the chat")
            return await error_response(scope["path"], error)(scope, receive, send)
        root = f"{scope.get('root_path', '')}/{token}"
        return await explanation.page({**scope, "root_path": root, "path": f"{root}/{rest}"}, receive, send)

    return [Route("/why", explain, methods=["POST"]), Mount("/why", app=pages)]
