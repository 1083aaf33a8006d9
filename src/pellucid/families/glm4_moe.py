"""GLM-4.5 and 4.6: Llama's shape turned in part, and after dense layers mixtures of experts routed as DeepSeek-V3's.

Source: GLM-4.5 Team 2025, *GLM-4.5* §2.1; transformers models/glm4_moe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.experts import (
    HARMLESS,
    deepseek_experts,
    deepseek_to_hf,
    expert_rules,
    in_memory,
    mlps_of,
    sparse_after,
)
from pellucid.families.translation.gguf import (
    EXPERT_RULES,
    GGUF,
    SHARED_EXPERT_RULES,
    common_keys,
    deepseek_keys,
    has_bias,
    llama_rules,
)
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, partial_rotary_to_hf, rope
from pellucid.families.translation.rules import both, renamed


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    head_dim = keys.size("head_dim", max(keys.size("hidden_size") // keys.size("num_attention_heads"), 1))
    return llama.build(
        keys,
        qkv_bias=keys.switch("attention_bias", False),
        norm=NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-5)),
        qk_norm=keys.switch("use_qk_norm", False),
        rotary=rope(keys, head_dim, keys.size("max_position_embeddings", 131072), partial=0.5),
        mlps=mlps_of(keys, *deepseek_experts(keys, num_experts=128, width=1408), sparse_after(keys, 1)),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    attention = config.layers[0].mixer
    assert attention.rope
    return (
        llama.base_to_hf(config)
        | deepseek_to_hf(config)
        | {
            "architectures": ["Glm4MoeForCausalLM"],
            "attention_bias": attention.qkv_bias,
            "use_qk_norm": attention.qk_norm is not None,
            "partial_rotary_factor": partial_rotary_to_hf(attention.head_dim, attention.rope.dim),
        }
    )


WEIGHTS = (
    *llama.WEIGHTS,
    *both("model.layers.{i}.self_attn.q_norm", "layers.{i}.attention.q_norm"),
    *both("model.layers.{i}.self_attn.k_norm", "layers.{i}.attention.k_norm"),
    *expert_rules(shared="shared_experts", correction="gate.e_score_correction_bias"),
)
ALSO = in_memory(WEIGHTS, "mlp")
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    common = common_keys("glm4moe", metadata, tensors, partial_rotary=True)
    turned = common.pop("rope_dimension_count")
    return (
        common
        | deepseek_keys("glm4moe", metadata, tensors)
        | {
            "model_type": "glm4_moe",
            "attention_bias": has_bias(tensors, "attn_q"),
            "use_qk_norm": "blk.0.attn_q_norm.weight" in tensors,
            "partial_rotary_factor": partial_rotary_to_hf(common["head_dim"], turned),
        }
    )


GGUF = GGUF(
    architecture="glm4moe",
    hf=gguf_hf,
    weights=(
        *renamed(llama_rules(), {"ffn_norm": "post_attention_norm"}),
        *EXPERT_RULES,
        *SHARED_EXPERT_RULES,
    ),
    experts=True,
)

TINY = llama.TINY | {
    "model_type": "glm4_moe",
    "tie_word_embeddings": False,
    "num_hidden_layers": 3,
    "head_dim": 8,
    "partial_rotary_factor": 0.5,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "use_qk_norm": True,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "air": {"use_qk_norm": False, "attention_bias": True, "routed_scaling_factor": 1.0},
    "groups": {"n_group": 4, "topk_group": 2, "n_shared_experts": 2},
    "unnormalized": {"norm_topk_prob": False, "first_k_dense_replace": 0},
    "tied": {"tie_word_embeddings": True},
}
