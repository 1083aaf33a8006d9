"""What comes back from an engine: events while an answer grows, and the answer when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pellucid.sampling import TokenLogprobs

# stop: a stop id, a stop string, the end of what the constraint allows, or of a prompt that is pooled
# length: max_new_tokens; cancelled: by the caller or Ctrl-C; error: see Answer.error
FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Where an answer's time went, in seconds as the caller waited; other requests had their share of it."""

    prompt_tokens: int
    new_tokens: int
    reused_tokens: int = 0  # of the prompt: computed for an earlier request
    guessed_tokens: int = 0  # that were computed ahead, and of these, those that were right
    accepted_tokens: int = 0
    queued: float  # from add to the first step it took part in
    prefill: float  # from there to its first token
    decode: float  # from its first token to its last

    @property
    def time_to_first_token(self) -> float:
        return self.queued + self.prefill

    @property
    def prefill_tokens_per_second(self) -> float:
        """Of the tokens that were computed."""
        return (self.prompt_tokens - self.reused_tokens) / self.prefill if self.prefill else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Of the tokens after the first, which the prefill gave."""
        return (self.new_tokens - 1) / self.decode if self.decode else 0.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One finished answer."""

    index: int  # which of the request's n
    token_ids: tuple[int, ...]  # all that were generated, a stop id and a stop string's tokens included
    text: str  # without special tokens and stop string; empty where the engine has no tokenizer
    finish_reason: FinishReason
    stopped_by: int | str | None  # the stop id or stop string
    logprobs: tuple[TokenLogprobs, ...] | None
    seed: int  # repeats the answer, together with the index
    timings: Timings
    error: Exception | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None  # a token of the prompt each, None for the first
    embedding: np.ndarray | None = field(default=None, compare=False)  # (D,), float32: see Request.pooling


@dataclass(frozen=True, kw_only=True)
class Event:
    """One token of one answer, or its end, or both."""

    request_id: int
    index: int = 0  # which of the request's n answers
    token_id: int | None = None  # None where an answer ends without a further token (cancelled, error)
    text: str = ""  # what is new and certain: often less or more than the token's own
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None  # in the answer's first event, where asked for
    answer: Answer | None = None  # in the answer's last event

    @property
    def finish_reason(self) -> FinishReason | None:
        return None if self.answer is None else self.answer.finish_reason


@dataclass(frozen=True, kw_only=True)
class Result:
    """A request's answers, in order."""

    prompt_ids: Sequence[int]  # as the model saw them
    answers: tuple[Answer, ...]

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The first answer's new tokens."""
        return self.answers[0].token_ids

    @property
    def text(self) -> str:
        """The first answer's text."""
        return self.answers[0].text
