"""From an ``Ask`` to what an engine is given: rendered, encoded, checked, and how each answer is to be read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pellucid.serve.http.errors import invalid
from pellucid.serve.work.ask import Ask
from pellucid.serve.work.conversation import Conversation, conversation
from pellucid.serve.work.reader import Reader
from pellucid.serve.work.spelling import spell_ahead

if TYPE_CHECKING:
    from pellucid.generate.constraint import Constraint, Matcher
    from pellucid.generate.request import Request
    from pellucid.grammar.source import Grammar
    from pellucid.sampling import SamplingParams
    from pellucid.serve.work.worker import Loaded
    from pellucid.text.tokenizer import Tokenizer

# Small models loop when they always take the likeliest token; used where neither the request nor the model's files say
# how to choose, as in `pellucid chat`.
HABIT = {"temperature": 0.7, "top_p": 0.95}
LONG = 4096  # characters (or ids) from which a text is looked at before it is encoded
_DRAWING = ("temperature", "top_k", "top_p", "min_p")


@dataclass(frozen=True)
class Prepared:
    """What an engine is given, and what is known before it answers."""

    requests: Sequence[Request]
    readers: Sequence[Reader]  # one a choice
    prompts: Sequence[str] = ()  # as text; only where they are echoed


def prepare(loaded: Loaded, ask: Ask, template: str | None) -> Prepared:
    """Takes a thread of its own: a long prompt takes a while, and other clients do not wait.

    Raises: ApiError, and what templates, tokenizers, grammars and requests raise.
    """
    from pellucid.generate.request import Request

    engine = loaded.engine
    if max((len(one) for one in ask.prompts), default=0) > LONG or ask.messages is not None:
        _check_length(loaded, ask)
    if ask.pooling is not None:
        prompts = _texts(loaded.tokenizer, ask)
        readers = [Reader(loaded.tokenizer) for _ in prompts]
        return Prepared([Request(prompt_ids=ids, pooling=ask.pooling) for ids in prompts], readers)
    if ask.logprobs is not None:
        spell_ahead(loaded.tokenizer)
    grammar = _form(ask)
    if ask.messages is not None:
        rule = None if grammar is None else grammar.rule
        chat = conversation(loaded.tokenizer, ask, template, rule)
        prompts, constraint = [chat.token_ids], _of_chat(loaded, ask, chat, grammar)
    else:
        chat = None
        prompts, constraint = _texts(loaded.tokenizer, ask), _constraint(loaded, ask, grammar)
    if constraint is not None and ask.begun:
        constraint = Begun(constraint, ask.begun)
    parsed = None if chat is None or chat.is_plain else chat
    sampling, ends = _sampling(loaded, ask), () if ask.ignore_eos else None
    requests = [
        Request(
            prompt_ids=[*ids, *ask.begun],
            max_new_tokens=_max_tokens(loaded, ask, len(ids) + len(ask.begun)),
            sampling=sampling,
            stop=tuple(ask.stop) or None,
            stop_token_ids=ends,
            n=ask.n,
            logprobs=ask.logprobs,
            prompt_logprobs=ask.prompt_logprobs,
            constraint=constraint,
            skip_special_tokens=parsed is None,
            priority=ask.priority,
        ).fit(engine.executor.config, engine.context_len, engine.defaults)
        for ids in prompts
    ]
    readers = [
        Reader(loaded.tokenizer, ids, None if parsed is None else parsed.parser())
        for ids in prompts
        for _ in range(ask.n)
    ]
    texts = [_text(loaded.tokenizer, one) for one in ask.prompts] if ask.echo else []
    return Prepared(requests, readers, texts)


class Begun:
    """A constraint on an answer whose first tokens are there already."""

    def __init__(self, constraint: Constraint, begun: Sequence[int]) -> None:
        self.constraint, self.begun = constraint, begun

    def start(self) -> Matcher:
        matcher = self.constraint.start()
        for token in self.begun:
            matcher.accept(token)
        return matcher


def _form(ask: Ask) -> Grammar | None:
    """What the answer's text is held to. Raises: RequestError for a form that no answer can be held to."""
    if ask.form is None:
        return None
    from pellucid.grammar.source import grammar_of, regex_grammar, schema_grammar

    kind, value = next(iter(ask.form.items()))
    return {"json_schema": schema_grammar, "regex": regex_grammar, "grammar": grammar_of}[kind](value)


def _of_chat(loaded: Loaded, ask: Ask, chat: Conversation, grammar: Grammar | None) -> Constraint | None:
    """What holds an answer to its tools, or its form, or both, after a thought."""
    if chat.is_plain:
        return _constraint(loaded, ask, grammar)
    return _constraint(loaded, ask, chat.grammar())


def _constraint(loaded: Loaded, ask: Ask, grammar: Grammar | None) -> Constraint | None:
    if grammar is None:
        return None
    from pellucid.grammar.matcher import constrain

    engine = loaded.engine
    ends: Collection[int] = () if ask.ignore_eos else engine.defaults.stop_token_ids
    return constrain(grammar, loaded.tokenizer, engine.executor.config.vocab_size, ends)


_LONGEST: WeakKeyDictionary[Tokenizer, int] = WeakKeyDictionary()


def _check_length(loaded: Loaded, ask: Ask) -> None:
    """A text that is far too long is refused before it is encoded, which would take seconds.

    A token has no more characters than the vocabulary's longest, and a normalizer that leaves less than half of a text
    is none of its model's. Raises: ApiError 400.
    """
    tokenizer, context_len = loaded.tokenizer, loaded.engine.context_len
    if tokenizer not in _LONGEST:
        _LONGEST[tokenizer] = max(map(len, tokenizer.get_vocab()), default=1)
    most = 2 * context_len * _LONGEST[tokenizer]
    texts = [one for one in ask.prompts if isinstance(one, str)]
    texts += [str(message.get("content") or "") for message in ask.messages or ()]
    if (longest := max(map(len, texts), default=0)) > most:
        raise invalid(
            f"a text of {longest} characters cannot fit into a context of {context_len} tokens; shorten it",
            code="context_length_exceeded",
        )


def _texts(tokenizer: Tokenizer, ask: Ask) -> list[list[int]]:
    prompts: list[list[int]] = []
    for one in ask.prompts:
        prompts.append(([] if not one else tokenizer.encode(one)) if isinstance(one, str) else list(one))
    return prompts


def _text(tokenizer: Tokenizer, prompt: str | Sequence[int]) -> str:
    return prompt if isinstance(prompt, str) else tokenizer.decode(list(prompt))


def _sampling(loaded: Loaded, ask: Ask) -> SamplingParams:
    """As the request says, else as generation_config.json does, else as ``HABIT`` does."""
    defaults = loaded.engine.defaults
    asked: dict[str, Any] = dict(ask.sampling)
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
