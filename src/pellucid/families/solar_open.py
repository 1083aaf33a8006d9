"""Solar Open: Llama's shape, every MLP a mixture of experts routed as DeepSeek-V3's. Source: transformers
models/solar_open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.experts import HARMLESS, deepseek_experts, deepseek_to_hf, expert_rules, in_memory
from pellucid.families.translation.hf import Keys, rope


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    keys.only("first_k_dense_replace", 0)
    context_len = keys.size("max_position_embeddings", 131072)
    return llama.build(
        keys,
        qkv_bias=keys.switch("attention_bias", False),
        norm=NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-5)),
        head_dim=128,
        rotary=rope(keys, keys.size("head_dim", 128), context_len, default_theta=1e6, partial=1.0),
        mlps=(deepseek_experts(keys, num_experts=128, width=1280),) * keys.num_layers("num_hidden_layers"),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    written = llama.base_to_hf(config) | deepseek_to_hf(config)
    return written | {
        "architectures": ["SolarOpenForCausalLM"],
        "attention_bias": config.layers[0].mixer.qkv_bias,
        "partial_rotary_factor": 1.0,
    }


WEIGHTS = (
    *llama.WEIGHTS,
    *expert_rules(shared="shared_experts", correction="gate.e_score_correction_bias"),
)
ALSO = in_memory(WEIGHTS, "mlp")
IGNORED = llama.IGNORED
GGUF = None

TINY = llama.TINY | {
    "model_type": "solar_open",
    "tie_word_embeddings": False,
    "head_dim": 8,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "groups": {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5},
    "unnormalized": {"norm_topk_prob": False, "attention_bias": True},
    "tied": {"tie_word_embeddings": True},
}
