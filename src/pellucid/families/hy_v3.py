"""Hunyuan 3: Qwen3's attention, and after dense layers mixtures by corrected sigmoids, weighed by one scale.

Source: transformers models/hy_v3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.experts import (
    HARMLESS as OF_MIXTURES,
)
from pellucid.families.translation.experts import (
    a_sparse_layer,
    expert_rules,
    in_memory,
    mlps_of,
    sparse_after,
    widths_to_hf,
)
from pellucid.families.translation.hf import Keys, rope
from pellucid.families.translation.rules import Rule, both

HARMLESS = (*OF_MIXTURES, "enable_moe_fp32_combine")  # where the two parts of a mixture are summed up


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    bias = keys.switch("attention_bias", False)
    keys.only("mlp_bias", False)
    head_dim, context_len = keys.size("head_dim", 128), keys.size("max_position_embeddings", 131072)
    d_ff, together = keys.size("moe_intermediate_size", 1536), keys.get("num_shared_experts", 1)
    expert = MLPConfig(d_ff=d_ff, activation=keys.activation("hidden_act", "silu"))
    experts = ExpertsConfig(
        num_experts=keys.size("num_experts", 192),
        experts_per_token=keys.size("num_experts_per_tok", 8),
        scores="sigmoid",
        correction_bias=True,
        normalize_eps=1e-20,
        scale=float(keys.get("router_scaling_factor", 2.826)),
        wide=True,
        shared=MLPConfig(d_ff=d_ff * together, activation=expert.activation) if together else None,
    )
    return llama.build(
        keys,
        qkv_bias=bias,
        o_bias=bias,
        norm=NormConfig(eps=keys.get("rms_norm_eps", 1e-5)),
        qk_norm=True,
        head_dim=head_dim,
        rotary=rope(keys, head_dim, context_len, default_theta=11158840.0),
        mlps=mlps_of(keys, expert, experts, sparse_after(keys, 1)),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer, experts = a_sparse_layer(config)
    return (
        llama.base_to_hf(config)
        | widths_to_hf(config)
        | {
            "architectures": ["HYV3ForCausalLM"],
            "attention_bias": layer.mixer.qkv_bias,
            "mlp_layer_types": ["sparse" if one.experts else "dense" for one in config.layers],
            "num_experts": experts.num_experts,
            "num_experts_per_tok": experts.experts_per_token,
            "num_shared_experts": experts.shared.d_ff // layer.mlp.d_ff if experts.shared else 0,
            "router_scaling_factor": experts.scale,
        }
    )


_QK_NORMS = (
    *both("model.layers.{i}.self_attn.q_norm", "layers.{i}.attention.q_norm"),
    *both("model.layers.{i}.self_attn.k_norm", "layers.{i}.attention.k_norm"),
)
WEIGHTS = (
    *llama.WEIGHTS,
    *_QK_NORMS,
    *expert_rules(router="router.gate", shared="shared_mlp", correction="expert_bias"),
)
ALSO = (
    *in_memory(WEIGHTS, "mlp"),
    Rule("model.layers.{i}.mlp.gate.weight", "layers.{i}.mlp.router.weight"),
    Rule("model.layers.{i}.mlp.e_score_correction_bias", "layers.{i}.mlp.correction_bias"),
    *(
        Rule(f"model.layers.{{i}}.mlp.shared_experts.{name}.weight", f"layers.{{i}}.mlp.shared.{name}.weight")
        for name in ("gate_proj", "up_proj", "down_proj")
    ),
)
IGNORED = llama.IGNORED
GGUF = None

TINY = llama.TINY | {
    "model_type": "hy_v3",
    "tie_word_embeddings": False,
    "head_dim": 8,
    "num_hidden_layers": 3,
    "moe_intermediate_size": 24,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_shared_experts": 1,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "bias": {"attention_bias": True, "router_scaling_factor": 1.0},
    "kinds": {"mlp_layer_types": ["sparse", "dense", "sparse"], "num_shared_experts": 2},
    "tied": {"tie_word_embeddings": True},
}
