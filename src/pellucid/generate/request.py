"""``Request``: what is asked of an engine, checked; and fitted to the model that shall answer."""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from pellucid.base.errors import ContextLengthError, RequestError
from pellucid.base.typed import is_real
from pellucid.config import ModelConfig
from pellucid.defaults import AnswerDefaults
from pellucid.generate.constraint import Constraint
from pellucid.sampling import SamplingParams

Pooling = Literal["last", "mean"]  # of the prompt's hidden states: the last one, or their mean


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt, and how its answers are to be made. What is None is as the checkpoint asks for (``AnswerDefaults``).

    Raises: RequestError for an argument out of range.
    """

    prompt_ids: Sequence[int]
    max_new_tokens: int | None = None  # where the checkpoint names none: until it stops or its context is full
    sampling: SamplingParams | None = None  # greedy where the checkpoint says nothing
    stop: str | Sequence[str] | None = None  # an answer ends before the first of these in its text; needs a tokenizer
    stop_token_ids: Collection[int] | None = None  # (): only length or a stop string ends it
    n: int = 1  # answers to the one prompt, each with its own random numbers
    # report each token's log-probability, and those of so many of the most probable; None: none
    logprobs: int | None = None
    prompt_logprobs: int | None = None  # the same of each token of the prompt but the first; it is computed whole then
    constraint: Constraint | None = field(default=None, compare=False)  # what answers may be
    skip_special_tokens: bool = True  # False: they stand in the answer's text, but for the one that ends it
    priority: int = 0  # the lower, the sooner, and the later it has to give way; among equals the first come
    deadline: float | None = None  # seconds, after which it ends with a DeadlineError, whatever it has by then
    pooling: Pooling | None = None  # no answer: the prompt's hidden states after the last norm, pooled to one vector

    def __post_init__(self) -> None:
        for name, least in (("max_new_tokens", 1), ("n", 1), ("logprobs", 0), ("prompt_logprobs", 0)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise RequestError(
                    f"{name} is out of range", expected=f"a whole number of at least {least}", received=repr(value)
                )
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):
            raise RequestError("priority is out of range", expected="a whole number", received=repr(self.priority))
        if self.deadline is not None and not (is_real(self.deadline) and self.deadline > 0):
            raise RequestError("deadline is out of range", expected="seconds, above 0", received=repr(self.deadline))
        self._check_pooling()
        object.__setattr__(self, "prompt_ids", _ids("prompt_ids", self.prompt_ids))
        if self.stop_token_ids is not None:
            object.__setattr__(self, "stop_token_ids", frozenset(_ids("stop_token_ids", self.stop_token_ids)))
        if self.stop is None:
            return
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        if not all(isinstance(stop, str) and stop for stop in self.stop):
            raise RequestError("a stop string must have at least one character", received=list(self.stop))

    def _check_pooling(self) -> None:
        """Raises: RequestError for one that is unknown, and for what only an answer could have."""
        if self.pooling is None:
            return
        if self.pooling not in get_args(Pooling):
            expected = ", ".join(get_args(Pooling))
            raise RequestError("pooling is unknown", expected=expected, received=repr(self.pooling))
        answers = ("max_new_tokens", "sampling", "stop", "logprobs", "prompt_logprobs", "constraint")
        asked = [name for name in answers if getattr(self, name) is not None] + ["n"] * (self.n != 1)
        if asked:
            raise RequestError("a prompt's hidden states are wanted, and no answer", received=", ".join(asked))

    @property
    def new_tokens(self) -> int:
        """Of an answer at most; the request is a fitted one."""
        assert self.max_new_tokens is not None or self.pooling is not None
        return self.max_new_tokens or 0

    def fit(self, config: ModelConfig, context_len: int, defaults: AnswerDefaults | None = None) -> Request:
        """The same request with all that the model decides filled in: an empty prompt becomes its bos, open ends get
        numbers, and the rest is as its checkpoint asks for (``defaults``; None: what its description says).

        What is asked for explicitly is never cut. A prompt must leave room for one token; an explicit
        ``max_new_tokens`` must fit behind it (as in OpenAI's API and vLLM), and only where none is given does the
        context decide. Raises: RequestError for an id out of range or an empty prompt without a bos; ContextLengthError
        naming the lengths.
        """
        defaults = AnswerDefaults.of(config) if defaults is None else defaults
        prompt = self.prompt_ids or (() if defaults.bos_token_id is None else (defaults.bos_token_id,))
        if not prompt:
            raise RequestError(
                "the prompt is empty, and this model has no token to begin a text with",
                remedy="give at least one token",
            )
        if not 0 <= min(prompt) <= max(prompt) < config.vocab_size:
            wrong = next(token for token in prompt if not 0 <= token < config.vocab_size)
            remedy = "does the tokenizer belong to this model?"
            raise RequestError(
                "a prompt's token id is out of range",
                expected=f"0 to {config.vocab_size - 1}",
                received=wrong,
                remedy=remedy,
            )
        sampling = defaults.sampling if self.sampling is None else self.sampling
        if (biased := max(sampling.logit_bias, default=0)) >= config.vocab_size:
            raise RequestError(
                "logit_bias names no token of this model", expected=f"0 to {config.vocab_size - 1}", received=biased
            )
        room = context_len - len(prompt)
        if self.pooling is not None:
            if room < 0:
                raise ContextLengthError(
                    "the text is longer than the context",
                    expected=f"at most {context_len} tokens",
                    received=f"{len(prompt)} tokens",
                )
            return replace(self, prompt_ids=prompt, stop_token_ids=())
        if room < 1:
            raise ContextLengthError(
                "the prompt leaves no room for an answer in the context",
                expected=f"at most {context_len - 1} tokens, with a context of {context_len}",
                received=f"{len(prompt)} tokens",
                remedy="shorten the prompt, or raise the context length where the model allows it",
            )
        if self.max_new_tokens is not None and self.max_new_tokens > room:
            raise ContextLengthError(
                f"a prompt of {len(prompt)} tokens and max_new_tokens={self.max_new_tokens} exceed the context",
                expected=f"at most {context_len} together",
                received=len(prompt) + self.max_new_tokens,
                remedy=f"ask for at most {room} new tokens, or leave max_new_tokens out",
            )
        usual = defaults.new_tokens(len(prompt))
        if self.max_new_tokens is None and usual is not None and usual < 1:
            raise ContextLengthError(
                "the prompt is as long as the checkpoint lets prompt and answer be together",
                expected=f"less than max_length = {defaults.max_length} of generation_config.json",
                received=f"{len(prompt)} tokens",
                remedy="shorten the prompt, or ask for a number of new tokens",
            )
        return replace(
            self,
            prompt_ids=prompt,
            max_new_tokens=self.max_new_tokens or (room if usual is None else min(usual, room)),
            sampling=sampling,
            stop=defaults.stop if self.stop is None else self.stop,
            stop_token_ids=defaults.stop_token_ids if self.stop_token_ids is None else self.stop_token_ids,
        )


def _ids(name: str, values: Collection[int]) -> tuple[int, ...]:
    try:
        return tuple(operator.index(value) for value in values)  # whole numbers of any library, not 3.0
    except TypeError:
        raise RequestError(f"{name} must be token ids", expected="whole numbers", received=repr(values)[:80]) from None
