"""``Ask``: what a client wants, whatever API it speaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pellucid.serve.http.errors import ApiError, invalid

if TYPE_CHECKING:
    from pellucid.generate.request import Pooling


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request of a client. What is None is as the model's files have it."""

    model: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None  # a conversation, or
    prompts: Sequence[str | Sequence[int]] = ()  # texts or token ids to be continued as they are
    template: str | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    reasoning_effort: str | None = None  # "none" to "high", for templates that know of it
    plain_if_no_template: bool = False  # of a model that does not chat, the messages are a text to be continued
    continue_final: bool = False  # the last message is the answer's beginning
    begun: Sequence[int] = ()  # the answer's first tokens, after which the model goes on
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: Any = "auto"  # "auto", "none", "required", or the name of a tool
    parallel_tool_calls: bool = True
    form: Mapping[str, Any] | None = None  # what the answer must be: {"json_schema": …}, {"regex": …}, {"grammar": …}
    max_tokens: int | None = None
    clamp: bool = False  # max_tokens is a bound, and need not fit into the context
    n: int = 1
    stop: Sequence[str] = ()
    seed: int | None = None
    logprobs: int | None = None  # of each token, and of so many of the likeliest
    prompt_logprobs: int | None = None
    echo: bool = False
    pooling: Pooling | None = None  # no answer: the texts' hidden states, "last" or "mean"
    sampling: Mapping[str, float] = field(default_factory=dict)  # fields of SamplingParams
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    ignore_eos: bool = False
    return_token_ids: bool = False
    keep_alive: float | None = None
    deadline: float | None = None
    priority: int = 0  # the lower, the sooner


def stops(value: Any) -> tuple[str, ...]:
    """A field that is one text, several, or null. Raises: ApiError for an empty one."""
    texts = () if value is None else (value,) if isinstance(value, str) else tuple(value)
    if not all(texts):
        raise invalid("stop: a stop string must have at least one character", "stop")
    return texts


def refuse(body: Mapping[str, Any], neutral: Mapping[str, Sequence[Any]]) -> None:
    """Fields that are known and not followed: refused where they would change the answer.

    ``neutral``: name → the values at which it does nothing. Raises: ApiError that names it.
    """
    for name, values in neutral.items():
        if (value := body.get(name)) is not None and value not in values:
            raise ApiError(
                400, f"{name}: {str(value)[:80]!r} cannot be followed here", param=name, code="unsupported_parameter"
            )
