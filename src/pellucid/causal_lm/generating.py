"""``CausalLM.generate``: transformers' call, answered by the engine, or token by token where somebody wants a say."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.base.notice import notice
from pellucid.causal_lm.forward import Called
from pellucid.causal_lm.past import PastKeyValues
from pellucid.causal_lm.settings import (
    DRAWS,
    SAMPLING,
    STEPWISE,
    USUAL,
    USUAL_TOP_K,
    idle,
    refuse_what_is_not_here,
)
from pellucid.causal_lm.settings import said as said_of
from pellucid.causal_lm.stepwise import Stepwise
from pellucid.defaults import AnswerDefaults
from pellucid.generate import DraftModel, PromptLookup, Speculator, Streamer, append_new_tokens
from pellucid.generate import generate as answer
from pellucid.generate.generation_config import GenerationConfig
from pellucid.model.batched.executor import executor_for
from pellucid.model.decoder import Decoder
from pellucid.model.executor import TorchExecutor
from pellucid.sampling import SamplingParams


def generate(
    self: Called,
    input_ids: Any = None,
    attention_mask: Any = None,
    position_ids: Tensor | None = None,
    *,
    inputs: Any = None,
    inputs_embeds: Tensor | None = None,
    generation_config: Any = None,
    logits_processor: Sequence[Any] | None = None,
    stopping_criteria: Sequence[Any] | None = None,
    prefix_allowed_tokens_fn: Any = None,
    past_key_values: PastKeyValues | None = None,
    stop: str | Sequence[str] | None = None,
    stop_token_ids: Collection[int] | None = None,
    seed: int | None = None,
    schema: Any = None,
    regex: str | None = None,
    grammar: str | None = None,
    streamer: Streamer | None = None,
    tokenizer: Any = None,
    assistant_model: Decoder | None = None,
    **settings: Any,
) -> Any:
    """The prompts and what follows them, ids (B, T + new); or a ``GenerateOutput`` where a dict is asked for. Prompts
    of a batch are padded on the left and masked; rows that end early, on the right.

    Prompts are ids (B, T), what a tokenizer gave, or texts. Runs these weights as they are now. ``settings`` are those
    of transformers' ``GenerationConfig`` by name; what is None is as ``generation_config`` says, first the call's, then
    the model's; where neither says it: greedy, 20 new tokens; draws among the 50 likeliest, at temperature 1.
    ``stop_token_ids`` (or ``eos_token_id``) None: every id that config, ``generation_config`` or ``tokenizer`` names
    as an end; ``stop`` strings (or ``stop_strings``) need the ``tokenizer``. ``position_ids`` is taken from tokenizers
    that give it; positions follow from the mask. ``seed``: each prompt's own, so equal prompts answer alike; None:
    drawn from torch's generator, so ``torch.manual_seed`` counts. ``prompt_lookup_num_tokens`` and ``assistant_model``
    guess tokens ahead (see ``generate/speculate.py``): in float32 on a CPU the answers are the same, elsewhere up to
    rounding. ``return_dict_in_generate`` gives a ``GenerateOutput``. ``schema`` (a JSON schema or a pydantic model),
    ``regex`` or ``grammar`` (Lark or GBNF), with the ``tokenizer``: what an answer is, if it ends by itself.

    Raises: RequestError for arguments out of range or padding on the right; ContextLengthError naming prompt and
    context lengths; TypeError for an argument that nobody knows.
    """
    if attention_mask is not None and not isinstance(attention_mask, Tensor) and generation_config is None:
        if isinstance(attention_mask, Mapping) or hasattr(attention_mask, "to_dict"):
            generation_config, attention_mask = attention_mask, None  # transformers' second argument
        else:
            attention_mask = torch.as_tensor(attention_mask)
    generation_config = GenerationConfig.of(generation_config)
    refuse_what_is_not_here(settings, generation_config)
    if odd := [one for one in idle(self.generation_config) if one not in self.not_followed]:
        notice(f"generate: model.generation_config has what is not followed here: {', '.join(odd)}")
    asked = _Asked.of(self, generation_config, settings, stop, stop_token_ids, seed, tokenizer)
    prompt = input_ids if inputs is None else inputs
    ids, mask = _prompts(self, prompt, attention_mask, inputs_embeds, asked)
    processors, criteria = list(logits_processor or ()), list(stopping_criteria or ())
    plain = (
        not (processors or criteria or prefix_allowed_tokens_fn)
        and past_key_values is None
        and inputs_embeds is None
        and not asked.stepwise
    )
    if plain:
        results = answer(
            executor_for(self),
            _without_padding(ids, mask),
            tokenizer=tokenizer,
            max_new_tokens=asked.new_tokens(ids.shape[1], self.config.longest_context),
            sampling=asked.sampling,
            stop=asked.stop,
            stop_token_ids=asked.ends,
            n=asked.answers,
            streamer=streamer,
            speculate=_speculator(asked.settings, assistant_model),
            schema=schema,
            regex=regex,
            grammar=grammar,
        )
        return torch.from_numpy(append_new_tokens(ids.cpu().numpy(), results, asked.pad)).to(ids.device)
    if schema is not None or regex is not None or grammar is not None:
        raise RequestError(
            "a schema, regex or grammar goes with plain answers: no beams, processors, scores, embeddings"
        )
    if assistant_model is not None or asked.settings.get("prompt_lookup_num_tokens"):
        raise RequestError("guessing ahead goes with plain answers: no beams, processors, scores or embeddings")
    return Stepwise(
        model=self,
        ids=ids,
        prompts=_without_padding(ids, mask),
        mask=mask,
        embeds=inputs_embeds,
        past=past_key_values,
        sampling=asked.sampling,
        ends=tuple(asked.ends),
        stop=asked.stop,
        tokenizer=tokenizer,
        pad=asked.pad,
        answers=asked.answers,
        max_new_tokens=asked.new_tokens(ids.shape[1], self.config.longest_context),
        settings=asked.settings,
        processors=processors,
        criteria=criteria,
        allowed=prefix_allowed_tokens_fn,
        streamer=streamer,
    ).run()


@dataclass(frozen=True)
class _Asked:
    """What a call asks for, joined with what its model's files do."""

    settings: GenerationConfig  # the call's, then the model's
    defaults: AnswerDefaults
    sampling: SamplingParams
    stop: tuple[str, ...]
    ends: tuple[int, ...]
    pad: int
    padding: int | None  # the id that somebody named as padding
    answers: int

    @classmethod
    def of(
        cls,
        model: Called,
        generation_config: Any,
        settings: Mapping[str, Any],
        stop: Any,
        stop_token_ids: Any,
        seed: int | None,
        tokenizer: Any,
    ) -> _Asked:
        said = GenerationConfig({**generation_config, **said_of(settings)})
        joined = GenerationConfig({**model.generation_config, **said})
        defaults = AnswerDefaults.of(model.config, model.generation_config, tokenizer)
        if joined.do_sample and joined.top_k is None:
            joined.top_k = USUAL_TOP_K
        if said.do_sample is None and not joined.do_sample and (odd := [n for n in DRAWS if _draws(said.get(n))]):
            notice(f"generate: {', '.join(odd)} without do_sample=True: the likeliest token is taken, no draw is made")
        if seed is None and joined.do_sample:
            seed = int(torch.randint(0, 2**53, ()))
        fields = {name: joined.get(name) for name in (*SAMPLING, "frequency_penalty", "presence_penalty")}
        sampling = defaults.sampling_with(**fields, seed=seed)
        if said.do_sample and sampling.greedy:
            notice("generate: at temperature 0 the likeliest token is taken, no draw is made")
        answers = joined.num_return_sequences or 1
        if answers > 1 and not sampling.do_sample and (joined.num_beams or 1) == 1:
            raise RequestError(
                "the likeliest answer is one; several would be copies of it",
                received=f"num_return_sequences={answers}",
                remedy=f"do_sample=True, or num_beams={answers}",
            )
        ends = stop_token_ids
        if ends is None:
            ends = _ids("eos_token_id", settings["eos_token_id"]) if "eos_token_id" in settings else None
        if ends is None:
            ends = _ids("eos_token_id", said.eos_token_id) if said.eos_token_id is not None else defaults.stop_token_ids
        strings = stop if stop is not None else joined.stop_strings
        pad = said.pad_token_id
        if pad is not None and not 0 <= pad < model.config.vocab_size:
            expected = f"a token of the model, 0 to {model.config.vocab_size - 1}"
            raise RequestError("pad_token_id is out of range", expected=expected, received=pad)
        named = pad if pad is not None else model.generation_config.pad_token_id
        named = named if named is not None else model.config.pad_token_id
        return cls(
            settings=joined,
            defaults=defaults,
            sampling=sampling,
            stop=(strings,) if isinstance(strings, str) else tuple(strings or defaults.stop),
            ends=tuple(ends),
            pad=defaults.pad_token_id if pad is None else pad,
            padding=named,
            answers=answers,
        )

    @property
    def stepwise(self) -> bool:
        """Whether more is asked for than the engine does."""
        neutral = {
            "num_beams": 1,
            "length_penalty": 1.0,
            "no_repeat_ngram_size": 0,
            "min_length": 0,
            "min_new_tokens": 0,
        }
        alone = (
            "length_penalty",
            "early_stopping",
            "frequency_penalty",
            "presence_penalty",
        )  # not for these by themselves
        return any(
            value not in (None, False, neutral.get(name))
            for name in STEPWISE
            if name not in alone and (value := self.settings.get(name)) is not None
        )

    def new_tokens(self, prompt: int, context: int) -> int:
        """The most that an answer may have. Raises: RequestError where ``max_length`` leaves none."""
        most, whole = self.settings.max_new_tokens, self.settings.max_length
        if most is not None:
            return most
        if whole is not None:
            if whole <= prompt:
                raise RequestError(
                    f"max_length={whole} counts the prompt, which has {prompt} tokens",
                    expected=f"more than {prompt}",
                    received=whole,
                    remedy="max_new_tokens counts the answer alone",
                )
            return whole - prompt
        notice(
            f"generate: neither max_new_tokens nor max_length is said: at most {USUAL} new tokens, as in transformers"
        )
        return max(min(USUAL, context - prompt), 1)


def _draws(value: Any) -> bool:
    return value is not None and value not in (0, 1, 50)


def _ids(name: str, value: Any) -> tuple[int, ...]:
    """One id, several, or none."""
    if value is None:
        return ()
    ids = value.flatten().tolist() if isinstance(value, (Tensor, np.ndarray)) else value
    ids = tuple(ids) if isinstance(ids, (list, tuple, set, frozenset)) else (ids,)
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise RequestError(f"{name} must be a token id or a list of them", received=repr(value))
    return tuple(token for token in ids if token >= 0)


def _prompts(
    model: Called, prompt: Any, mask: Tensor | None, embeds: Tensor | None, asked: _Asked
) -> tuple[Tensor, Tensor | None]:
    """Ids (B, T), and what of them is no padding."""
    if isinstance(prompt, Mapping):
        mask = prompt.get("attention_mask", mask) if mask is None else mask
        mask = None if mask is None else torch.as_tensor(mask)
        prompt = prompt["input_ids"]
    if isinstance(prompt, str) or (isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], str)):
        return _encoded(model, [prompt] if isinstance(prompt, str) else list(prompt))
    if prompt is None:
        if embeds is not None:
            return torch.empty(embeds.shape[0], 0, dtype=torch.long, device=model.device), None
        prompt = [[]] if asked.defaults.bos_token_id is None else [[asked.defaults.bos_token_id]]
    ids = torch.atleast_2d(torch.as_tensor(prompt, dtype=torch.long))
    padding = asked.padding
    if mask is not None:
        return ids, torch.atleast_2d(mask)
    if padding is not None and ids.numel() and bool((ids == padding).any()):
        if padding in asked.ends:
            if bool((ids[:, 0] == padding).any()):
                notice(
                    "generate: the prompts may be padded, and padding is also an end of a text: without an "
                    "attention_mask it is read as text"
                )
        elif bool((ids[:, 0] == padding).any()) and not bool((ids[:, -1] == padding).any()):
            return ids, ids != padding
    return ids, None


def _encoded(model: Called, texts: list[str]) -> tuple[Tensor, Tensor | None]:
    from pellucid.auto import tokenizer_at

    if model.origin is None:
        raise RequestError(
            "a prompt that is text needs a tokenizer, and this model came with none",
            remedy='generate(**tokenizer(text, return_tensors="pt"))',
        )
    tokenizer = tokenizer_at(model.origin)
    rows = [tokenizer.encode(text) for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    return ids, mask


def _speculator(settings: GenerationConfig, assistant_model: Decoder | None) -> Speculator | None:
    prompt_lookup_num_tokens, most = settings.prompt_lookup_num_tokens, settings.num_assistant_tokens
    if prompt_lookup_num_tokens is not None and assistant_model is not None:
        raise RequestError("prompt_lookup_num_tokens and assistant_model exclude each other")
    if assistant_model is not None:
        return DraftModel(TorchExecutor(assistant_model), *(() if most is None else (most,)))
    return None if prompt_lookup_num_tokens is None else PromptLookup(prompt_lookup_num_tokens)


def _without_padding(ids: Tensor, attention_mask: Tensor | None) -> list[list[int]]:
    if attention_mask is None:
        return ids.tolist()
    mask = attention_mask.bool()
    if mask.shape != ids.shape or not torch.equal(mask, mask.cummax(1).values if mask.numel() else mask):
        raise RequestError(
            "attention_mask must be zeros, then ones, in each row: the answer follows the last token",
            remedy="pad on the left",
        )
    return [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]
