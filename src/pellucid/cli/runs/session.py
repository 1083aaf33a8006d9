"""A model that is ready to answer: what `generate`, `chat` and the demo open, and how their flags become a request."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import ConfigError, PellucidError, RequestError
from pellucid.cli.runs.options import AS_MANY_AS_FIT

if TYPE_CHECKING:
    from pellucid.checkpoint.open import Checkpoint
    from pellucid.executor import Executor
    from pellucid.generate import Speculator
    from pellucid.generate.constraint import Constraint
    from pellucid.generate.engine import Engine
    from pellucid.generate.request import Request
    from pellucid.grammar.source import Grammar
    from pellucid.sampling import SamplingParams
    from pellucid.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Session:
    """A model with its tokenizer, in an engine."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    engine: Engine

    def encode(self, prompt: str) -> list[int]:
        """The ids of a plain text, with what the model expects around one; none for an empty text: the engine begins
        with BOS.
        """
        from pellucid.cli.terminal.scripts import tell_of_script

        tell_of_script(prompt, self.tokenizer)
        return self.tokenizer.encode(prompt) if prompt else []

    def encode_chat(self, messages: Sequence[dict[str, Any]], template: str | None) -> list[int]:
        """The ids of a conversation up to where the assistant's answer begins. Raises: TemplateError where there is no
        template.
        """
        from pellucid.cli.terminal.scripts import tell_of_script

        if messages and isinstance(said := messages[-1].get("content"), str):
            tell_of_script(said, self.tokenizer)
        return self.tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=True, return_dict=False
        )

    def request(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        max_new_tokens: int | None,
        usual: int = 256,
        stop: Sequence[str] = (),
        answers: int = 1,
        logprobs: int | None = None,
        grammar: Grammar | None = None,
    ) -> Request:
        """A request fitted to the model and its context. ``usual`` tokens where neither the flags nor the checkpoint
        bound an answer, or what there is room for, as with −1.

        Raises: RequestError, ContextLengthError.
        """
        from pellucid.generate.request import Request

        engine, prompt_len = self.engine, max(len(prompt_ids), 1)
        room = max(engine.context_len - prompt_len, 1)
        if max_new_tokens == AS_MANY_AS_FIT:
            max_new_tokens = room
        if max_new_tokens is None and engine.defaults.new_tokens(prompt_len) is None:
            max_new_tokens = min(usual, room)
        request = Request(
            prompt_ids=prompt_ids,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=stop or None,
            n=answers,
            logprobs=logprobs,
            constraint=self.constraint(grammar),
        )
        return request.fit(engine.executor.config, engine.context_len, engine.defaults)

    def constraint(self, grammar: Grammar | None) -> Constraint | None:
        """What holds answers to a grammar. Raises: RequestError where the model's tokens cannot be."""
        if grammar is None:
            return None
        from pellucid.grammar.matcher import constrain

        engine = self.engine
        return constrain(grammar, self.tokenizer, engine.executor.config.vocab_size, engine.defaults.stop_token_ids)

    def sampling(self, flags: Mapping[str, Any], *, habit: Mapping[str, Any] = MappingProxyType({})) -> SamplingParams:
        """How tokens are chosen: as the flags say, else as generation_config.json does, else by ``habit``, else
        greedily.

        A flag about drawing (``--temperature``, ``--top-p``, ``--seed`` …) asks for drawing.
        """
        from pellucid.sampling import GREEDY

        defaults = self.engine.defaults
        asked = {field: flags[flag] for flag, field in _SAMPLING.items() if flags.get(flag) is not None}
        draws = True if any(flags.get(flag) is not None for flag in _DRAWING) else None
        if habit and not defaults.says_how:
            unsaid = (field for field in habit if getattr(defaults.sampling, field) == getattr(GREEDY, field))
            asked, draws = {**{field: habit[field] for field in unsaid}, **asked}, True
        return defaults.sampling_with(do_sample=draws, seed=flags.get("seed"), **asked)


# Flag -> its name in generation_config.json, which is transformers' own.
_SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}
_DRAWING = ("temperature", "top_k", "top_p", "min_p", "seed")


def stop_token_ids(checkpoint: Checkpoint, tokenizer: Tokenizer) -> set[int]:
    """Every id that the model's files name as an end; they often disagree, and any of them is meant."""
    from pellucid.defaults import AnswerDefaults

    return set(AnswerDefaults.of(checkpoint.config, checkpoint.generation_config, tokenizer).stop_token_ids)


def open_session(
    model: str, flags: Mapping[str, Any] = MappingProxyType({}), *, max_batch: int = 16, most_kept: int = 1024
) -> Session:
    """Load a model by name; ``flags`` are those of ``options.running`` and ``options.speculation``, ``max_batch`` and
    ``most_kept`` are the engine's.

    Raises: PellucidError.
    """
    from pellucid.auto import open_model
    from pellucid.generate.engine import Engine

    # a vocabulary is some hundred thousand objects, none of them garbage: looking for it takes a tenth of the start
    gc.disable()
    try:
        checkpoint = open_model(model, offline=flags.get("offline", False))
        tokenizer = tokenizer_named(flags.get("tokenizer"), checkpoint, flags.get("offline", False))
    finally:
        gc.enable()
    speculate = _speculator(tokenizer, flags)
    engine = Engine(
        _executor(checkpoint, flags),
        tokenizer,
        context_len=flags.get("context_len"),
        max_batch=max_batch,
        most_kept=most_kept,
        memory=flags.get("memory"),
        speculate=speculate,
    )
    return Session(checkpoint, tokenizer, engine)


def tokenizer_named(name: str | None, checkpoint: Checkpoint, offline: bool) -> Tokenizer:
    """The tokenizer that is asked for, or the model's own.

    Raises: ConfigError for one that has ids which the model does not.
    """
    from pellucid.auto import AutoTokenizer, tokenizer_of

    if name is None:
        return tokenizer_of(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(name, offline=offline)
    if (most := max(tokenizer.get_vocab().values(), default=0)) >= checkpoint.config.vocab_size:
        raise ConfigError(
            "this tokenizer is not the model's",
            where=name,
            expected=f"ids below {checkpoint.config.vocab_size}",
            received=most,
        )
    return tokenizer


def _executor(checkpoint: Checkpoint, flags: Mapping[str, Any]) -> Executor:
    from pellucid.auto import open_executor

    device = flags.get("device", "auto")
    try:
        return open_executor(
            checkpoint,
            **{name: flags[name] for name in ("executor", "dtype", "device", "threads", "kv_cache") if name in flags},
        )
    except (RuntimeError, AssertionError) as error:  # torch's words for a device that is not there
        if isinstance(error, PellucidError) or device in ("auto", "cpu"):
            raise
        raise ConfigError(
            f"the device {device!r} cannot be used: {error}", remedy="--device auto takes the best there is"
        ) from None


def _speculator(tokenizer: Tokenizer, flags: Mapping[str, Any]) -> Speculator | None:
    """What guesses ahead, if anything is to. Raises: PellucidError, where the draft model cannot be had or has another
    vocabulary.
    """
    from pellucid.generate import DraftModel, PromptLookup

    name, lookup = flags.get("draft"), flags.get("prompt_lookup")
    if name is not None and lookup:
        raise RequestError("--draft and --prompt-lookup exclude each other")
    if name is None:
        return PromptLookup(lookup) if lookup else None
    from pellucid.auto import open_model, tokenizer_of

    draft = open_model(name, offline=flags.get("offline", False))
    ours, theirs = (
        {place: token for token, place in one.get_vocab().items()} for one in (tokenizer, tokenizer_of(draft))
    )
    if others := sorted(place for place, token in theirs.items() if ours.get(place, token) != token):
        first = others[0]
        raise ConfigError(
            f"the draft model has another vocabulary: {len(others):,} of its {len(theirs):,} tokens differ",
            where=f"{name}, token {first}",
            expected=repr(ours[first]),
            received=repr(theirs[first]),
            remedy="take a smaller model of the same family, or the same model in fewer bits",
        )
    return DraftModel(_executor(draft, flags))
