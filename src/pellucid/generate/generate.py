"""Prompts in, answers out, in one call; and the shapes that Hugging Face's ``generate`` has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pellucid.base.errors import RequestError
from pellucid.executor import Executor
from pellucid.generate.constraint import Constraint
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
    schema: Any = None,
    regex: str | None = None,
    grammar: str | None = None,
) -> list[Result]:
    """Answer every prompt, together. Arguments as in ``Request`` and ``Engine``, and what is left out is as the
    checkpoint asks for; a seed is each prompt's own, so equal prompts answer alike.

    ``schema`` (a JSON schema or a pydantic model), ``regex`` or ``grammar`` (Lark or GBNF): what every answer is, if
    it ends by itself; one that ``max_new_tokens`` cuts short is a beginning of it. They need the tokenizer.

    Raises: what ``Engine.add`` raises, before any work is done; and what made an answer fail.
    """
    asked = _asked(schema, regex, grammar, tokenizer)
    engine = Engine(executor, tokenizer, max_batch=max(max_batch, n), prefill_chunk=prefill_chunk, speculate=speculate)
    ends = engine.defaults.stop_token_ids if stop_token_ids is None else stop_token_ids
    constraint = None if asked is None else asked(executor.config.vocab_size, ends)
    requests = [
        Request(
            prompt_ids=prompt,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=stop,
            stop_token_ids=stop_token_ids,
            n=n,
            logprobs=logprobs,
            constraint=constraint,
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


def _asked(
    schema: Any, regex: str | None, grammar: str | None, tokenizer: Tokenizer | None
) -> Callable[[int, Collection[int]], Constraint] | None:
    """What makes the constraint, for a model's vocab_size and ends; None where none is asked for.

    Raises: RequestError for a schema, expression or grammar that answers cannot be held to.
    """
    if schema is None and regex is None and grammar is None:
        return None
    from pellucid.grammar.answers import asked_grammar
    from pellucid.grammar.matcher import constrain

    if tokenizer is None:
        raise RequestError(
            "a schema, regex or grammar is about text", remedy="give the tokenizer, too: generate(…, tokenizer=…)"
        )
    wanted = asked_grammar(schema, regex, grammar)
    assert wanted is not None
    return lambda vocab_size, ends: constrain(wanted, tokenizer, vocab_size, ends)


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
