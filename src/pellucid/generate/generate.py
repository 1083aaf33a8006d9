"""Prompts in, answers out, in one call; and the shapes that Hugging Face's ``generate`` has."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pellucid.base.errors import RequestError
from pellucid.executor import Executor
from pellucid.generate.engine import Engine
from pellucid.generate.request import Request
from pellucid.generate.result import Result
from pellucid.generate.speculate import Speculator
from pellucid.sampling import SamplingParams

if TYPE_CHECKING:
    from pellucid.text.tokenizer import Tokenizer


class Streamer(Protocol):
    """Receives ids as they come, as transformers' ``BaseStreamer`` does: first the prompt (1, T), then each new token
    (1,).
    """

    def put(self, value: np.ndarray) -> None: ...

    def end(self) -> None: ...


def generate(
    executor: Executor,
    prompts: Sequence[Sequence[int]],
    *,
    tokenizer: Tokenizer | None = None,
    max_new_tokens: int | None = None,
    sampling: SamplingParams | None = None,
    stop: str | Sequence[str] | None = None,
    stop_token_ids: Collection[int] | None = None,
    n: int = 1,
    logprobs: int | None = None,
    streamer: Streamer | None = None,
    max_batch: int = 16,
    prefill_chunk: int | None = None,
    speculate: Speculator | None = None,
) -> list[Result]:
    """Answer every prompt, together. Arguments as in ``Request`` and ``Engine``, and what is left out is as the
    checkpoint asks for; a seed is each prompt's own, so equal prompts answer alike.

    Raises: what ``Engine.add`` raises, before any work is done; and what made an answer fail.
    """
    engine = Engine(executor, tokenizer, max_batch=max(max_batch, n), prefill_chunk=prefill_chunk, speculate=speculate)
    requests = [
        Request(
            prompt_ids=prompt,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=stop,
            stop_token_ids=stop_token_ids,
            n=n,
            logprobs=logprobs,
        ).fit(executor.config, engine.context_len, engine.defaults)
        for prompt in prompts
    ]
    try:
        results = engine.run(requests) if streamer is None else [_streamed(engine, requests, streamer)]
    finally:
        engine.forget()
    for answer in (answer for result in results for answer in result.answers):
        if answer.error is not None:
            raise answer.error
    return results


def _streamed(engine: Engine, requests: list[Request], streamer: Streamer) -> Result:
    if len(requests) != 1 or requests[0].n != 1:
        raise RequestError(
            "a streamer takes one answer to one prompt",
            received=f"{len(requests)} prompts, n={requests[0].n if requests else 1}",
        )
    events, answer = engine.stream(requests[0]), None
    streamer.put(np.array([requests[0].prompt_ids]))
    for event in events:
        if event.token_id is not None:
            streamer.put(np.array([event.token_id]))
        answer = event.answer
    streamer.end()
    assert answer is not None
    return Result(prompt_ids=requests[0].prompt_ids, answers=(answer,))


def append_new_tokens(input_ids: np.ndarray, results: Sequence[Result], pad_token_id: int) -> np.ndarray:
    """What Hugging Face's ``generate`` returns: each row of ``input_ids`` (B, T) as given, padding and all, then its
    new tokens.

    Answers that end early are padded on the right. With n answers a prompt, its row comes n times, one after the other.
    """
    answers = [(row, answer) for row, result in zip(input_ids, results, strict=True) for answer in result.answers]
    longest = max((len(answer.token_ids) for _, answer in answers), default=0)
    return np.array(
        [[*row, *answer.token_ids, *[pad_token_id] * (longest - len(answer.token_ids))] for row, answer in answers],
        input_ids.dtype,
    )
