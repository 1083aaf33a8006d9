"""GLM-4.7-Flash: DeepSeek-V3's layers; ``mlp_layer_types`` says which are mixtures of experts.

Source: transformers models/glm4_moe_lite.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig, NormConfig
from pellucid.families import deepseek_v3, llama
from pellucid.families.translation import experts
from pellucid.families.translation.hf import Keys

HARMLESS = deepseek_v3.HARMLESS
DEFAULTS = {
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.8,
    "num_experts_per_tok": 4,
    "kv_lora_rank": 512,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "max_position_embeddings": 202752,
}


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys({**DEFAULTS, **hf}, HARMLESS)
    expert = experts.deepseek_experts(keys, num_experts=64, width=1536)
    norm = NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-5))
    return deepseek_v3.build(keys, norm=norm, mlps=experts.mlps_of(keys, *expert, experts.sparse_after(keys, 1)))


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return deepseek_v3.to_hf(config) | {
        "architectures": ["Glm4MoeLiteForCausalLM"],
        "mlp_layer_types": ["sparse" if layer.experts else "dense" for layer in config.layers],
    }


WEIGHTS = deepseek_v3.WEIGHTS
ALSO = deepseek_v3.ALSO
IGNORED = (*llama.IGNORED, "model.layers.47.*")  # one that guesses a further token
GGUF = None

TINY = {name: value for name, value in deepseek_v3.TINY.items() if name != "first_k_dense_replace"} | {
    "model_type": "glm4_moe_lite",
    "n_group": 1,
    "topk_group": 1,
    "mlp_layer_types": ["dense", "sparse", "sparse"],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default_types": {"mlp_layer_types": None},
    "mixed_types": {"mlp_layer_types": ["sparse", "dense", "sparse"], "n_group": 4, "topk_group": 2},
    "biases": {"attention_bias": True, "rope_interleave": False},
    "plain_queries": {"q_lora_rank": None, "tie_word_embeddings": True},
}
