"""DeepSeek-V2 and its Lite: latent attention, after dense layers mixtures of experts by softmax, in groups or not.

Source: DeepSeek-AI 2024, *DeepSeek-V2* §2; transformers models/deepseek_v2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig
from pellucid.families import deepseek_v3, llama
from pellucid.families.translation import experts, gguf_latent
from pellucid.families.translation.gguf import GGUF
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import without

HARMLESS = deepseek_v3.HARMLESS
DEFAULTS = deepseek_v3.DEFAULTS | {
    "n_group": None,
    "topk_group": None,
    "max_position_embeddings": 2048,
    "routed_scaling_factor": 1.0,
}


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys({**DEFAULTS, "routed_scaling_factor": 1.0, **hf, "rope_interleave": True}, HARMLESS)
    keys.only("moe_layer_freq", 1)
    keys.only("mlp_bias", False)
    keys.only("scoring_func", "softmax")
    keys.only("norm_topk_prob", False)  # transformers' code does not look at it, DeepSeek's does
    keys.only("topk_method", "greedy", "group_limited_greedy")
    grouped = keys.get("topk_method", "greedy") == "group_limited_greedy"
    for name in ("n_group", "topk_group"):  # read, though they mean nothing without groups
        keys.get(name)
    d_ff, activation = keys.size("moe_intermediate_size", 1407), keys.activation("hidden_act", "silu")
    mixture = ExpertsConfig(
        num_experts=keys.size("n_routed_experts", 64),
        experts_per_token=keys.size("num_experts_per_tok"),
        num_groups=keys.size("n_group") if grouped else 1,
        groups_per_token=keys.size("topk_group") if grouped else 1,
        group_score="max",
        normalize=False,
        scale=keys.get("routed_scaling_factor", 1.0),
        wide=True,
        shared=MLPConfig(d_ff=d_ff * keys.size("n_shared_experts", 2), activation=activation),
    )
    expert = MLPConfig(d_ff=d_ff, activation=activation)
    return deepseek_v3.build(
        keys, wide=True, mlps=experts.mlps_of(keys, expert, mixture, experts.sparse_after(keys, 0))
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    mixture = experts.a_sparse_layer(config)[1]
    written = deepseek_v3.base_to_hf(config) | experts.deepseek_to_hf(config)
    del written["rope_interleave"]
    return written | {
        "architectures": ["DeepseekV2ForCausalLM"],
        "topk_method": "greedy" if mixture.num_groups == 1 else "group_limited_greedy",
    }


WEIGHTS = without(deepseek_v3.WEIGHTS, "e_score_correction_bias")
ALSO = experts.in_memory(WEIGHTS, "mlp")
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    metadata.expect("deepseek2.expert_gating_func", 1, "scores of another kind than softmax are DeepSeek-V3's")
    keys = gguf_latent.deepseek_keys(metadata, tensors)
    method = "greedy" if keys["n_group"] == 1 else "group_limited_greedy"
    return keys | {"model_type": "deepseek_v2", "topk_method": method}


GGUF = GGUF(
    architecture="deepseek2",
    hf=gguf_hf,
    weights=without(gguf_latent.DEEPSEEK_RULES, "exp_probs_b"),
    also=gguf_latent.JOINED,
    write=gguf_latent.deepseek_to_gguf,
    experts=True,
)

TINY = {name: value for name, value in deepseek_v3.TINY.items() if name not in ("n_group", "topk_group")} | {
    "model_type": "deepseek_v2",
    "n_shared_experts": 2,
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": False,
    "topk_method": "greedy",
    "q_lora_rank": None,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "groups": {
        "topk_method": "group_limited_greedy",
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 16.0,
        "q_lora_rank": 24,
    },
    "yarn": {"rope_scaling": deepseek_v3.VARIANTS["yarn_mscale"]["rope_scaling"]},
    "biases": {"attention_bias": True, "q_lora_rank": 24},
    "all_sparse": {"first_k_dense_replace": 0, "tie_word_embeddings": True},
}
