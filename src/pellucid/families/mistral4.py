"""Mistral Small 4: latent attention whose queries grow with their position, mixtures of experts by softmax.

Source: transformers models/mistral4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.base.errors import ConfigError
from pellucid.config import ModelConfig
from pellucid.families import deepseek_v3, llama, ministral3
from pellucid.families.translation import experts
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import without

HARMLESS = deepseek_v3.HARMLESS
DEFAULTS = {
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 4,
    "kv_lora_rank": 256,
    "q_lora_rank": 1024,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "max_position_embeddings": 1048576,
}
YARN = ministral3.YARN | {"rope_theta": 1e4, "factor": 128.0, "original_max_position_embeddings": 8192}


def config(hf: Mapping[str, Any]) -> ModelConfig:
    settings, (rest, scale) = hf.get("rope_parameters"), ministral3.grown(hf, YARN, "partial_rotary_factor")
    keys = Keys({**DEFAULTS, **rest}, HARMLESS)
    turned, whole = keys.size("qk_rope_head_dim"), keys.size("qk_nope_head_dim") + keys.size("qk_rope_head_dim")
    partial = settings.get("partial_rotary_factor") if isinstance(settings, Mapping) else None
    if partial is not None and (not isinstance(partial, (int, float)) or int(whole * partial) != turned):
        raise ConfigError("partial_rotary_factor is not what qk_rope_head_dim says", where=keys.where, received=partial)
    expert, mixture = experts.deepseek_experts(keys, num_experts=128, width=2048)
    mixture = replace(mixture, scores="softmax", correction_bias=False, wide=False)
    whole = deepseek_v3.build(keys, mlps=experts.mlps_of(keys, expert, mixture, experts.sparse_after(keys, 0)))
    grown = (replace(layer, mixer=replace(layer.mixer, query_scale=scale)) for layer in whole.layers)
    return replace(whole, layers=tuple(grown))


def to_hf(config: ModelConfig) -> dict[str, Any]:
    written = deepseek_v3.base_to_hf(config) | experts.deepseek_to_hf(config)
    head_dim = config.layers[0].mixer.head_dim  # whole: transformers sizes rotations by a part of it
    return ministral3.with_growth(config, written) | {"architectures": ["Mistral4ForCausalLM"], "head_dim": head_dim}


WEIGHTS = (*without(deepseek_v3.WEIGHTS, ".experts.", "e_score_correction_bias"), *experts.fused())
ALSO = experts.expert_rules()[1:]  # each expert by itself
IGNORED = llama.IGNORED
GGUF = None

TINY = {name: value for name, value in deepseek_v3.TINY.items() if name not in ("n_group", "topk_group")} | {
    "model_type": "mistral4",
    "first_k_dense_replace": 0,
    "routed_scaling_factor": 1.0,
    "rope_parameters": YARN | {"factor": 4.0, "original_max_position_embeddings": 4},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "dense_first": {"first_k_dense_replace": 1, "n_shared_experts": 2},
    "groups": {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5},
    "plain_queries": {"q_lora_rank": None, "tie_word_embeddings": True},
    "halves": {"rope_interleave": False, "attention_bias": True, "norm_topk_prob": False},
}
