"""What ``generate`` is asked for, in the words of transformers' ``GenerationConfig``; and what to write for others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.arguments import refuse_unknown
from pellucid.defaults import not_followed
from pellucid.generate.generation_config import GenerationConfig

USUAL = 20  # new tokens where nobody says how many, as in transformers
USUAL_TOP_K = 50  # of draws, likewise
SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
DRAWS = ("temperature", "top_k", "top_p", "min_p")
STEPWISE = (
    *("min_length", "min_new_tokens", "num_beams", "length_penalty", "early_stopping", "no_repeat_ngram_size"),
    *("bad_words_ids", "return_dict_in_generate", "output_scores", "output_logits", "output_attentions"),
    *("output_hidden_states", "frequency_penalty", "presence_penalty", "max_time"),
)
SETTINGS = (
    *SAMPLING,
    *STEPWISE,
    *("max_length", "max_new_tokens", "eos_token_id", "pad_token_id", "bos_token_id", "num_return_sequences"),
    *("stop_strings", "suppress_tokens", "prompt_lookup_num_tokens", "num_assistant_tokens"),
)
OURS = ("stop", "stop_token_ids", "seed", "schema", "regex", "grammar")
WITHOUT_EFFECT = (
    *("use_cache", "synced_gpus", "use_model_defaults", "cache_implementation", "trust_remote_code", "disable_compile"),
    *("return_dict", "transformers_version", "_from_model_config", "token_type_ids", "cache_position"),
    *("cache_config", "max_cache_len", "compile_config", "prefill_chunk_size", "continuous_batching_config"),
)
ELSEWHERE = {
    "guidance_scale": "run both prompts, and mix their logits in a logits_processor",
    "penalty_alpha": "contrastive search is not here; do_sample=True with top_p",
    "dola_layers": 'look at what each layer would say: `pellucid explain`, or trace(…)["layers.3.resid_post"]',
    "renormalize_logits": "a logits_processor that ends with log_softmax",
    "custom_generate": "a loop of your own over model(ids, past_key_values=…)",
    "num_beam_groups": "num_beams without groups; do_sample=True gives answers that differ",
    "diversity_penalty": "num_beams without groups; do_sample=True gives answers that differ",
    "constraints": "a logits_processor, or prefix_allowed_tokens_fn",
    "force_words_ids": "a logits_processor, or prefix_allowed_tokens_fn",
    "sequence_bias": "a logits_processor",
    "typical_p": "top_p or min_p",
    "epsilon_cutoff": "min_p",
    "eta_cutoff": "min_p",
    "top_h": "top_p or min_p",
    "encoder_repetition_penalty": "repetition_penalty",
    "watermarking_config": "a logits_processor",
    "token_healing": "nothing here does that yet",
    "exponential_decay_length_penalty": "length_penalty with num_beams",
    "begin_suppress_tokens": "a logits_processor",
    "forced_bos_token_id": "put the token at the end of the prompt",
    "forced_eos_token_id": "a logits_processor",
    "low_memory": "leave it out: beams take no more memory than their texts",
    "remove_invalid_values": "leave it out: a number that is not finite is an error that names its layer and tensor",
    "encoder_no_repeat_ngram_size": "no_repeat_ngram_size: the prompt counts",
    "forced_decoder_ids": "put the tokens at the end of the prompt",
    "decoder_start_token_id": "bos_token_id: models here have no encoder",
    "assistant_tokenizer": "an assistant_model of the same vocabulary",
    "assistant_confidence_threshold": "num_assistant_tokens=5 bounds each guess",
    "assistant_early_exit": "an assistant_model, or prompt_lookup_num_tokens",
    "assistant_ensemble_weight": "an assistant_model guesses, and changes no token",
    "assistant_lookbehind": "an assistant_model of the same vocabulary",
    "target_lookbehind": "an assistant_model of the same vocabulary",
    "num_assistant_tokens_schedule": "num_assistant_tokens=5 bounds each guess",
    "max_matching_ngram_size": "prompt_lookup_num_tokens=8 bounds each guess",
    "is_assistant": "assistant_model=… of the larger model's call",
    "use_mtp": "an assistant_model, or prompt_lookup_num_tokens",
    "speculation_type": "an assistant_model, or prompt_lookup_num_tokens",
    "negative_prompt_attention_mask": "run both prompts, and mix their logits in a logits_processor",
    "negative_prompt_ids": "run both prompts, and mix their logits in a logits_processor",
}

NAMED = (
    *("input_ids", "attention_mask", "position_ids", "inputs", "inputs_embeds", "generation_config"),
    *("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "past_key_values", "streamer"),
    *("tokenizer", "assistant_model"),
)


def refuse_what_is_not_here(settings: Mapping[str, Any], generation_config: Mapping[str, Any]) -> None:
    """Raises: TypeError for a setting of the call, or of the config that it was given, that is not here."""
    unknown = {name: value for name, value in settings.items() if name not in (*SETTINGS, *WITHOUT_EFFECT)}
    refuse_unknown("generate", unknown, (*SETTINGS, *OURS, *NAMED), ELSEWHERE)
    refuse_unknown("generate(generation_config=…)", _idle(generation_config), SETTINGS, ELSEWHERE)


def idle(generation_config: Mapping[str, Any]) -> list[str]:
    """What a model's own config asks for and ``generate`` does not do, each with its value."""
    return not_followed({name: value for name, value in generation_config.items() if name not in SETTINGS})


def _idle(config: Mapping[str, Any]) -> dict[str, Any]:
    wanted = {one.partition(" = ")[0] for one in idle(config)}
    return {name: config[name] for name in config if name in wanted}


def said(settings: Mapping[str, Any]) -> GenerationConfig:
    """Those settings of a call that are about the answer, and are not None."""
    return GenerationConfig({name: value for name, value in settings.items() if name in SETTINGS})
