"""Qwen3.5-MoE: Qwen3.5 with many experts and a shared one in every layer. Source: transformers models/qwen3_5_moe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig
from pellucid.families import llama, qwen2_moe, qwen3_5, qwen3_next
from pellucid.families.translation.delta_net import GATED_QUERY
from pellucid.families.translation.delta_net_gguf import delta_net_keys, delta_net_to_gguf
from pellucid.families.translation.experts import in_memory
from pellucid.families.translation.gguf import EXPERT_RULES, GGUF, SHARED_EXPERT_RULES, expert_width, experts_keys
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import with_offset, without
from pellucid.families.translation.text_part import in_one_place

HARMLESS = (*qwen3_5.HARMLESS, "intermediate_size")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(in_one_place(hf), HARMLESS)
    act = keys.activation("hidden_act", "silu")
    experts = ExpertsConfig(
        num_experts=keys.size("num_experts", keys.size("num_local_experts", 256)),
        experts_per_token=keys.size("num_experts_per_tok", 8),
        shared=MLPConfig(d_ff=keys.size("shared_expert_intermediate_size", 512), activation=act),
        shared_gated=True,
    )
    expert = MLPConfig(d_ff=keys.size("moe_intermediate_size", 512), activation=act)
    return qwen3_next.build(keys, ((expert, experts),) * keys.num_layers("num_hidden_layers"))


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer = config.layers[0]
    assert layer.experts
    assert layer.experts.shared
    hf = qwen3_next.base_to_hf(config) | {
        "architectures": ["Qwen3_5MoeForCausalLM"],
        "moe_intermediate_size": layer.mlp.d_ff,
        "num_experts": layer.experts.num_experts,
        "num_experts_per_tok": layer.experts.experts_per_token,
        "shared_expert_intermediate_size": layer.experts.shared.d_ff,
    }
    hf.pop("intermediate_size")
    return hf


WEIGHTS = (
    *with_offset((*without(qwen2_moe.WEIGHTS, "self_attn.q_proj"), *qwen3_next.QK_NORMS), 1.0),
    *GATED_QUERY,
    *qwen3_5.DELTA,
)
ALSO = in_memory(WEIGHTS, "mlp")
IGNORED = (*llama.IGNORED, "mtp.*")


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    return (
        delta_net_keys("qwen35moe", metadata, tensors)
        | experts_keys("qwen35moe", metadata, normalize=True)
        | {
            "model_type": "qwen3_5_moe_text",
            "moe_intermediate_size": expert_width("qwen35moe", metadata, tensors),
            "shared_expert_intermediate_size": metadata.needed("qwen35moe.expert_shared_feed_forward_length"),
        }
    )


GGUF = GGUF(
    architecture="qwen35moe",
    hf=gguf_hf,
    write=delta_net_to_gguf,
    for_others=False,
    weights=(*qwen3_5.GGUF_RULES, *EXPERT_RULES, *SHARED_EXPERT_RULES),
    experts=True,
)

EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
}
TINY = (
    {name: value for name, value in qwen3_5.TINY.items() if name != "intermediate_size"}
    | EXPERTS
    | {"model_type": "qwen3_5_moe_text", "tie_word_embeddings": False}
)
VARIANTS: dict[str, dict[str, Any]] = {
    name: qwen3_next.VARIANTS[name] for name in ("biases", "one_value_head_a_key", "by_interval", "tied")
}
