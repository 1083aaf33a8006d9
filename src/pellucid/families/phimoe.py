"""Phi-3.5-MoE: Llama's shape with layer norms, every MLP a mixture of experts that a sparsemixer chooses.

With longrope, its makers' code takes the long factors beyond the original context, as we do; transformers' takes the
short ones for every length. Source: Abdin et al. 2024, *Phi-3 Technical Report* §4; transformers models/phimoe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError
from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig, NormConfig
from pellucid.families import llama, mixtral
from pellucid.families.translation.experts import a_sparse_layer, in_memory
from pellucid.families.translation.gguf import (
    EXPERT_RULES,
    GGUF,
    common_keys,
    expert_width,
    experts_keys,
    has_bias,
    llama_rules,
)
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, rope
from pellucid.families.translation.rules import Rule

HARMLESS = ("input_jitter_noise",)  # of training


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(_with_one_magnitude(hf), HARMLESS)
    keys.only("num_experts_per_tok", 2)
    num_layers, context_len = keys.num_layers("num_hidden_layers"), keys.size("max_position_embeddings", 131072)
    bias, head_dim = (
        keys.switch("attention_bias", False),
        keys.size("hidden_size") // keys.size("num_attention_heads"),
    )
    expert = MLPConfig(d_ff=keys.size("intermediate_size", 6400), activation=keys.activation("hidden_act", "silu"))
    experts = ExpertsConfig(
        num_experts=keys.size("num_local_experts", 16),
        experts_per_token=2,
        scores="sparsemixer",
        normalize=False,
        jitter=float(keys.get("router_jitter_noise", 0.01)),
    )
    return llama.build(
        keys,
        qkv_bias=bias,
        o_bias=bias,
        norm=NormConfig(kind="layer", eps=keys.get("rms_norm_eps", 1e-5), bias=True),
        rotary=rope(keys, keys.size("head_dim", head_dim), context_len, default_theta=1e6),
        windows=(keys.get("sliding_window"),) * num_layers,
        mlps=((expert, experts),) * num_layers,
        head_bias=keys.switch("lm_head_bias", False),
    )


def _with_one_magnitude(hf: Mapping[str, Any]) -> Mapping[str, Any]:
    """What cos and sin are multiplied by, under the name that other models have for it. Raises: UnsupportedError where
    it is not the same for short texts and long ones.
    """
    name = "rope_parameters" if hf.get("rope_parameters") else "rope_scaling"
    scaling = hf.get(name)
    if not isinstance(scaling, Mapping) or "short_mscale" not in scaling:
        return hf
    own = {key: value for key, value in scaling.items() if key not in ("short_mscale", "long_mscale")}
    if scaling.get("long_mscale") != scaling["short_mscale"]:
        raise UnsupportedError(
            "short_mscale and long_mscale that differ are not implemented", where=f"config.json (phimoe): {name}"
        )
    return {**hf, name: own | {"attention_factor": scaling["short_mscale"]}}


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer, experts = a_sparse_layer(config)
    written = llama.base_to_hf(config)
    if (scaling := written.get("rope_scaling")) is not None:
        factor = scaling.pop("attention_factor", 1.0)
        scaling |= {"short_mscale": factor, "long_mscale": factor}
    return written | {
        "architectures": ["PhimoeForCausalLM"],
        "attention_bias": layer.mixer.qkv_bias,
        "lm_head_bias": config.head_bias,
        "num_local_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "router_jitter_noise": experts.jitter,
        "sliding_window": layer.mixer.window,
    }


WEIGHTS = mixtral.WEIGHTS
ALSO = (
    *in_memory(WEIGHTS, "block_sparse_moe"),
    Rule("model.layers.{i}.mlp.router.weight", "layers.{i}.mlp.router.weight"),
)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    """llama.cpp weighs the two experts by a softmax of theirs; here they weigh as the model was trained."""
    common, routed = common_keys("phimoe", metadata, tensors), experts_keys("phimoe", metadata, normalize=True)
    return common | {
        "num_local_experts": routed["num_experts"],
        "num_experts_per_tok": routed["num_experts_per_tok"],
        "intermediate_size": expert_width("phimoe", metadata, tensors),
        "attention_bias": has_bias(tensors, "attn_q", "attn_qkv", "attn_output"),
        "lm_head_bias": "output.bias" in tensors,
        "sliding_window": metadata.scalar("phimoe.attention.sliding_window", 0) or None,
    }


GGUF = GGUF(
    architecture="phimoe",
    needs=("output.weight", "output.bias"),
    for_others=False,
    hf=gguf_hf,
    weights=(*llama_rules(), *EXPERT_RULES),
    ignored=("rope_factors_*.weight",),
    experts=True,
)

TINY = llama.TINY | {
    "model_type": "phimoe",
    "tie_word_embeddings": False,
    "intermediate_size": 24,
    "num_local_experts": 8,
    "router_jitter_noise": 0.1,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"attention_bias": True, "lm_head_bias": True},
    "window": {"sliding_window": 8},
    "longrope": {
        "max_position_embeddings": 1024,
        "original_max_position_embeddings": 512,
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": [1.0, 1.1, 1.3, 1.7],
            "long_factor": [1.0, 1.5, 2.5, 4.0],
            "short_mscale": 1.25,
            "long_mscale": 1.25,
            "original_max_position_embeddings": 512,
        },
    },
    "tied": {"tie_word_embeddings": True},
}
