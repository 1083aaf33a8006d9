"""What a checkpoint asks for when it answers: the ids that end a text, how tokens are chosen, what begins and pads.

``config.json``, ``generation_config.json`` and the tokenizer each say a part of it, and often disagree. It is joined
here, once: an id that any of them names as an end is one, and generation_config.json's other keys mean what they mean
in transformers' ``generate``, where what is asked for explicitly wins. Source: transformers' GenerationConfig.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import ConfigError, RequestError
from pellucid.base.notice import notice
from pellucid.config import ModelConfig
from pellucid.sampling import GREEDY, SamplingParams

if TYPE_CHECKING:
    from pellucid.text.tokenizer import Tokenizer

WHERE = "generation_config.json"

# Keys that are fields of SamplingParams, by the same names.
_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_FOLLOWED = {
    *_SAMPLING,
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "max_new_tokens",
    "max_length",
    "stop_strings",
    "suppress_tokens",
}
# Keys that change answers, and are not followed; the values at which they do nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "diversity_penalty": (0,),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_decoder_ids": ([],),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "max_time": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "remove_invalid_values": (False,),
    "sequence_bias": ({}, []),
    "token_healing": (False,),
    "top_h": (1,),
    "typical_p": (1,),
    "watermarking_config": (),
}
# Keys that change no token of an answer here: how it is computed or reported, encoders, beams, remote code's own.
_HARMLESS = {
    "_commit_hash",
    "_from_model_config",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_ensemble_weight",
    "assistant_lookbehind",
    "assistant_token_id",
    "cache_config",
    "cache_implementation",
    "chat_format",
    "compile_config",
    "continuous_batching_config",
    "decoder_start_token_id",
    "disable_compile",
    "early_stopping",
    "is_assistant",
    "length_penalty",
    "low_memory",
    "max_cache_len",
    "max_matching_ngram_size",
    "max_window_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "renormalize_logits",
    "return_dict_in_generate",
    "speculation_type",
    "target_lookbehind",
    "transformers_version",
    "trust_remote_code",
    "use_cache",
    "use_mtp",
    "user_token_id",
}


@dataclass(frozen=True, kw_only=True)
class AnswerDefaults:
    """How a model answers where a request says nothing about it."""

    stop_token_ids: tuple[int, ...] = ()  # every id that any of its files names as an end
    sampling: SamplingParams = GREEDY
    says_how: bool = False  # whether generation_config.json says whether to draw: else a face may have its own habit
    bos_token_id: int | None = None  # what an empty prompt becomes
    pad_token_id: int = 0  # an id of the vocabulary
    stop: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    max_length: int | None = None  # prompt and answer together

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        generation_config: Mapping[str, Any] | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> AnswerDefaults:
        """Joined from a model's files. Raises: ConfigError for a value of generation_config.json that cannot be."""
        asked = generation_config or {}
        named = [*_ids(asked, "eos_token_id"), *config.eos_token_ids]
        if tokenizer is not None:
            named += [*tokenizer.stop_token_ids, *(() if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,))]
        ends = tuple(dict.fromkeys(token for token in named if token >= 0))
        begins = (*_ids(asked, "bos_token_id"), *(() if config.bos_token_id is None else (config.bos_token_id,)))
        pads = (*_ids(asked, "pad_token_id"), *(() if config.pad_token_id is None else (config.pad_token_id,)), *ends)
        return cls(
            stop_token_ids=ends,
            sampling=_sampling(asked, config.vocab_size),
            says_how=asked.get("do_sample") is not None,
            bos_token_id=next(_within(begins, config.vocab_size), None),
            pad_token_id=next(_within(pads, config.vocab_size), 0),
            stop=_strings(asked, "stop_strings"),
            max_new_tokens=_count(asked, "max_new_tokens"),
            max_length=_count(asked, "max_length"),
        )

    def sampling_with(self, **asked: Any) -> SamplingParams:
        """The checkpoint's way of choosing, with what is asked for (not None) in place of its own.

        Raises: RequestError.
        """
        return replace(self.sampling, **{name: value for name, value in asked.items() if value is not None})

    def new_tokens(self, prompt_len: int) -> int | None:
        """The length of an answer to so many tokens, where the checkpoint bounds it; below 1: it leaves no room."""
        rest = None if self.max_length is None else self.max_length - prompt_len
        bounds = [bound for bound in (self.max_new_tokens, rest) if bound is not None]
        return min(bounds, default=None)


def not_followed(generation_config: Mapping[str, Any]) -> list[str]:
    """Keys of generation_config.json that are passed over, with their values; those that would change answers first."""
    asked = {name: value for name, value in generation_config.items() if value is not None}
    changing = [name for name in asked if name in _NEUTRAL and asked[name] not in _NEUTRAL[name]]
    unknown = [name for name in asked if name not in _FOLLOWED | _HARMLESS | _NEUTRAL.keys()]
    return [f"{name} = {_shown(asked[name])}" for name in (*changing, *unknown)]


def tell_what_is_not_followed(generation_config: Mapping[str, Any], where: object) -> None:
    """One line on stderr that names them, if there are any."""
    if names := not_followed(generation_config):
        notice(f"{where}: {WHERE} has what is not followed here: {', '.join(names)}")


def _sampling(asked: Mapping[str, Any], vocab_size: int) -> SamplingParams:
    values = {name: asked[name] for name in _SAMPLING if asked.get(name) is not None}
    if not isinstance(draws := values.setdefault("do_sample", False), bool):
        raise ConfigError("do_sample is out of range", where=WHERE, expected="true or false", received=_shown(draws))
    forbidden = _within(_ids(asked, "suppress_tokens"), vocab_size)
    try:
        return SamplingParams(**values, logit_bias=dict.fromkeys(forbidden, -math.inf))
    except RequestError as error:
        raise ConfigError(
            error.what, where=WHERE, expected=error.expected, received=error.received, remedy="mend or delete the key"
        ) from None


def _ids(asked: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """One id or several, as a tuple. Raises: ConfigError."""
    value = asked.get(name)
    ids = () if value is None else tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        expected = "a token id or a list of them"
        raise ConfigError(f"{name} names no token", where=WHERE, expected=expected, received=_shown(value))
    return ids


def _count(asked: Mapping[str, Any], name: str) -> int | None:
    value = asked.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        expected = "a whole number of at least 1"
        raise ConfigError(f"{name} is out of range", where=WHERE, expected=expected, received=_shown(value))
    return value


def _strings(asked: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = asked.get(name)
    texts = () if value is None else (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) and text for text in texts):
        expected = "a text or a list of them"
        raise ConfigError(f"{name} is no text", where=WHERE, expected=expected, received=_shown(value))
    return tuple(texts)


def _within(ids: Iterable[int], vocab_size: int) -> Iterator[int]:
    """Those that are tokens of the model; −1 is a custom for none."""
    return (token for token in ids if 0 <= token < vocab_size)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
