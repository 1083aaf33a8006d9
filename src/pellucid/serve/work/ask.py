"""``Ask``: what a client wants, whatever API it speaks; and how that becomes requests of an engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import TokenizerError
from pellucid.serve.http.errors import ApiError, invalid
from pellucid.serve.work.spelling import spell_ahead

if TYPE_CHECKING:
    from pellucid.generate.constraint import Constraint
    from pellucid.generate.request import Pooling, Request
    from pellucid.sampling import SamplingParams
    from pellucid.serve.work.worker import Loaded
    from pellucid.text.tokenizer import Tokenizer

# Small models loop when they always take the likeliest token; used where neither the request nor the model's files say
# how to choose, as in `pellucid chat`.
HABIT = {"temperature": 0.7, "top_p": 0.95}
_DRAWING = ("temperature", "top_k", "top_p", "min_p")


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


@dataclass(frozen=True)
class Prepared:
    """What an engine is given, and what is known before it answers."""

    requests: Sequence[Request]
    prompts: Sequence[str]  # as text; only where they are echoed
    begun: str = ""  # the text of the tokens that the answer begins with


def prepare(loaded: Loaded, ask: Ask, template: str | None) -> Prepared:
    """Render, encode, check. Takes a thread of its own: a long prompt takes a while, and other clients do not wait.

    Raises: ApiError, and what templates, tokenizers and requests raise.
    """
    from pellucid.generate.request import Request

    if ask.tools and ask.tool_choice != "none":
        raise invalid("tools: this server does not call tools yet", "tools", "unsupported_parameter")
    if ask.pooling is not None:
        return Prepared([Request(prompt_ids=ids, pooling=ask.pooling) for ids in _prompts(loaded, ask, template)], [])
    if ask.logprobs is not None:
        spell_ahead(loaded.tokenizer)
    sampling = _sampling(loaded, ask)
    constraint = _constraint(loaded, ask)
    requests = []
    begun = ""
    for prompt in _prompts(loaded, ask, template):
        ids = [*prompt, *ask.begun]
        begun = _continued(loaded, prompt, ask.begun)
        stops: dict[str, Any] = {} if not ask.ignore_eos else {"stop_token_ids": ()}
        requests.append(
            Request(
                prompt_ids=ids,
                max_new_tokens=_max_tokens(loaded, ask, len(ids)),
                sampling=sampling,
                stop=tuple(ask.stop) or None,
                n=ask.n,
                logprobs=ask.logprobs,
                prompt_logprobs=ask.prompt_logprobs,
                constraint=constraint,
                **stops,
            )
        )
    fitted = [
        one.fit(loaded.engine.executor.config, loaded.engine.context_len, loaded.engine.defaults) for one in requests
    ]
    texts = [_text(loaded.tokenizer, one) for one in ask.prompts] if ask.echo else []
    return Prepared(fitted, texts, begun)


def _constraint(loaded: Loaded, ask: Ask) -> Constraint | None:
    """What holds the answers to their form. Raises: RequestError for a form that no answer can be held to."""
    if ask.form is None:
        return None
    from pellucid.grammar.matcher import constrain
    from pellucid.grammar.source import grammar_of, regex_grammar, schema_grammar

    kind, value = next(iter(ask.form.items()))
    grammar = {"json_schema": schema_grammar, "regex": regex_grammar, "grammar": grammar_of}[kind](value)
    engine = loaded.engine
    ends = () if ask.ignore_eos else engine.defaults.stop_token_ids
    return constrain(grammar, loaded.tokenizer, engine.executor.config.vocab_size, ends)


def rendered(loaded: Loaded, ask: Ask, template: str | None, *, tokenize: bool = True) -> Any:
    """A conversation as the model reads it: ids, or the text. Raises: TemplateError."""
    assert ask.messages is not None
    tokenizer, template = loaded.tokenizer, ask.template or template
    if ask.plain_if_no_template and template is None and not tokenizer.chat_template:
        plain = "\n".join(str(message.get("content") or "") for message in ask.messages)
        return tokenizer.encode(plain) if tokenize else plain
    return tokenizer.apply_chat_template(
        [readable(message, tokenizer) for message in ask.messages],
        tools=list(ask.tools) or None,
        chat_template=template,
        add_generation_prompt=not ask.continue_final,
        continue_final_message=ask.continue_final,
        tokenize=tokenize,
        return_dict=False,
        **thinking(ask.reasoning_effort, template or str(tokenizer.chat_template)),
        **ask.template_kwargs,
    )


def thinking(effort: str | None, template: str) -> dict[str, Any]:
    """What a template is told of how long to think: by the words that it has. Raises: ApiError where it has none, and
    thoughts are asked for.
    """
    if effort is None:
        return {}
    told: dict[str, Any] = {}
    if "reasoning_effort" in template:
        told["reasoning_effort"] = {"none": "low", "minimal": "low", "xhigh": "high"}.get(effort, effort)
    for word in ("enable_thinking", "thinking"):
        if word in template and "reasoning_effort" not in told:
            told[word] = effort not in ("none", "minimal")
            break
    if not told and effort not in ("none", "minimal"):
        raise ApiError(
            400,
            "reasoning_effort: this model's template knows no thinking",
            param="reasoning_effort",
            code="unsupported_parameter",
        )
    return told


def readable(message: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """A message as templates know it: text in place of parts, arguments as an object, no keys that are null, and a
    role that the template has a word for.
    """
    plain = {name: value for name, value in message.items() if value is not None}
    if isinstance(plain.get("content"), list):
        plain["content"] = joined(plain["content"])
    plain.setdefault("content", "")
    if plain.get("role") == "developer" and "developer" not in str(tokenizer.chat_template):
        plain["role"] = "system"
    calls = plain.pop("tool_calls", None)
    if calls:
        plain["tool_calls"] = [_call(call) for call in calls]
    return plain


def joined(parts: Sequence[Any]) -> str:
    """The text of a content that comes in parts. Raises: ApiError for a part that is not text."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, Mapping) and isinstance(part.get("refusal"), str):
            texts.append(part["refusal"])
        else:
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise invalid(f"messages: a part of kind {str(kind)[:80]!r} cannot be read here; only text can", "messages")
    return "".join(texts)


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            function["arguments"] = json.loads(arguments or "{}")
        except ValueError:
            raise invalid(
                f"messages: the arguments of a tool call are not JSON: {arguments[:80]!r}", "messages"
            ) from None
    return {**{name: value for name, value in call.items() if value is not None}, "function": function}


def _prompts(loaded: Loaded, ask: Ask, template: str | None) -> list[list[int]]:
    if ask.messages is not None:
        return [rendered(loaded, ask, template)]
    return [loaded.tokenizer.encode(one) if isinstance(one, str) and one else list(one) for one in ask.prompts]  # pyright: ignore[reportReturnType]


def _continued(loaded: Loaded, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """The text of an answer's first tokens; a character that they leave unfinished comes with those that follow."""
    from pellucid.text.detokenizer import IncrementalDetokenizer

    detokenizer = IncrementalDetokenizer(loaded.tokenizer, prompt_ids=prompt if ids else ())
    return "".join(detokenizer.push(token) for token in ids)


def _text(tokenizer: Tokenizer, prompt: str | Sequence[int]) -> str:
    return prompt if isinstance(prompt, str) else tokenizer.decode(list(prompt))


def _sampling(loaded: Loaded, ask: Ask) -> SamplingParams:
    """As the request says, else as generation_config.json does, else as ``HABIT`` does."""
    defaults = loaded.engine.defaults
    asked = dict(ask.sampling)
    if not defaults.says_how and not any(name in asked for name in _DRAWING):
        asked = {**HABIT, **asked}
    draws = True if any(name in asked for name in _DRAWING) else None
    bias = {**defaults.sampling.logit_bias, **ask.logit_bias}
    for token in ask.logit_bias:
        if token >= loaded.engine.executor.config.vocab_size:
            raise invalid(f"logit_bias: this model has no token {token}", "logit_bias")
    return defaults.sampling_with(do_sample=draws, seed=ask.seed, logit_bias=bias, **asked)


def _max_tokens(loaded: Loaded, ask: Ask, prompt_len: int) -> int | None:
    """None: as the checkpoint has it, else as many as there is room for."""
    if ask.max_tokens is None or not ask.clamp:
        return ask.max_tokens
    return min(ask.max_tokens, max(loaded.engine.context_len - max(prompt_len, 1), 1))


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """What a token by itself reads as."""
    try:
        return tokenizer.decode([token_id])
    except TokenizerError:
        return ""


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
