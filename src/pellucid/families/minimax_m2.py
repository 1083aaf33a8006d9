"""MiniMax-M2: a norm over all queries and all keys, heads turned in part, every MLP a mixture by corrected sigmoids.

Source: transformers models/minimax_m2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig
from pellucid.families import llama, mixtral
from pellucid.families.translation.experts import a_sparse_layer, in_memory
from pellucid.families.translation.gguf import EXPERT_RULES, GGUF, common_keys, expert_width, experts_keys, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, partial_rotary_to_hf, rope
from pellucid.families.translation.rules import Rule, both

# What its own code has for other models of the line, and heads that guess further tokens.
HARMLESS = (
    "layernorm_*_beta",
    "*mtp*",
    "shared_moe_mode",
    "use_grouped_topk",
    "attn_type_list",
    "mlp_intermediate_size",
)


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    keys.only("use_qk_norm", True)
    keys.only("qk_norm_type", "per_layer")
    keys.only("scoring_func", "sigmoid")
    keys.only("use_routing_bias", True)
    keys.only("shared_intermediate_size", 0)
    keys.only("sliding_window", None)
    num_layers, head_dim = keys.num_layers("num_hidden_layers"), keys.size("head_dim", 128)
    partial = keys.size("rotary_dim", head_dim) / head_dim
    expert = MLPConfig(d_ff=keys.size("intermediate_size", 1536), activation=keys.activation("hidden_act", "silu"))
    experts = ExpertsConfig(
        num_experts=keys.size("num_local_experts", 256),
        experts_per_token=keys.size("num_experts_per_tok", 8),
        scores="sigmoid",
        correction_bias=True,
    )
    context_len = keys.size("max_position_embeddings", 196608)
    return llama.build(
        keys,
        qk_norm=True,
        head_dim=128,
        rotary=rope(keys, head_dim, context_len, default_theta=5e6, partial=partial),
        attention={"qk_norm_over": "all"},
        mlps=((expert, experts),) * num_layers,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer, experts = a_sparse_layer(config)
    assert layer.mixer.rope
    return llama.base_to_hf(config) | {
        "architectures": ["MiniMaxM2ForCausalLM"],
        "num_local_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "rotary_dim": layer.mixer.rope.dim,
        "partial_rotary_factor": partial_rotary_to_hf(layer.mixer.head_dim, layer.mixer.rope.dim),
    }


WEIGHTS = (
    *mixtral.WEIGHTS,
    *both("model.layers.{i}.self_attn.q_norm", "layers.{i}.attention.q_norm"),
    *both("model.layers.{i}.self_attn.k_norm", "layers.{i}.attention.k_norm"),
    Rule("model.layers.{i}.block_sparse_moe.e_score_correction_bias", "layers.{i}.mlp.correction_bias"),
)
ALSO = in_memory(WEIGHTS, "block_sparse_moe")
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    common = common_keys("minimax-m2", metadata, tensors, partial_rotary=True)
    turned = common.pop("rope_dimension_count")
    routed = experts_keys("minimax-m2", metadata, normalize=True)
    metadata.expect("minimax-m2.expert_gating_func", 2, "its experts are chosen by sigmoids")
    return common | {
        "model_type": "minimax_m2",
        "intermediate_size": expert_width("minimax-m2", metadata, tensors),
        "num_local_experts": routed["num_experts"],
        "num_experts_per_tok": routed["num_experts_per_tok"],
        "rotary_dim": turned,
    }


GGUF = GGUF(
    architecture="minimax-m2",
    needs=("output.weight",),
    hf=gguf_hf,
    weights=(*llama_rules(), *EXPERT_RULES),
    experts=True,
)

TINY = llama.TINY | {
    "model_type": "minimax_m2",
    "tie_word_embeddings": False,
    "head_dim": 8,
    "rotary_dim": 4,
    "intermediate_size": 24,
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "whole_heads": {"rotary_dim": None, "num_experts_per_tok": 1},
    "rope_theta": {"rope_theta": 500.0},
    "tied": {"tie_word_embeddings": True},
}
