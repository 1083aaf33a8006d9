"""Qwen2-MoE and Qwen1.5-MoE: Qwen2 with many narrow experts, and one that every token goes through, let in by a gate of
its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError
from pellucid.config import MLPConfig, ModelConfig
from pellucid.families import llama, qwen2, qwen3_moe
from pellucid.families.translation.experts import in_memory
from pellucid.families.translation.gguf import (
    EXPERT_RULES,
    GGUF,
    SHARED_EXPERT_RULES,
    common_keys,
    expert_width,
    experts_keys,
    llama_rules,
)
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import Rule

HARMLESS = ("intermediate_size",)  # the dense width, where no layer is dense


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    # Of the first max_window_layers every second one, from the first; in Qwen2 it is those after them.
    first = keys.get("max_window_layers", 28)
    windowed = ["sliding_attention" if i % 2 == 0 and i < first else "full_attention"
                for i in range(keys.num_layers("num_hidden_layers"))]  # fmt: skip
    shared = MLPConfig(
        d_ff=keys.size("shared_expert_intermediate_size", 5632), activation=keys.activation("hidden_act", "silu")
    )
    experts = replace(qwen3_moe.experts(keys), shared=shared, shared_gated=True)
    return llama.build(
        keys,
        qkv_bias=keys.switch("qkv_bias", True),
        windows=qwen2.windows(keys, windowed),
        mlps=qwen3_moe.mlps(keys, experts),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    shared = next((layer.experts.shared for layer in config.layers if layer.experts), None)
    if shared is None:
        raise ConfigError("a model of this family has a shared expert", where=config.model_type)
    return (
        llama.base_to_hf(config)
        | qwen2.windows_to_hf(config)
        | qwen3_moe.mlps_to_hf(config)
        | {
            "architectures": ["Qwen2MoeForCausalLM"],
            "qkv_bias": config.layers[0].mixer.qkv_bias,
            "shared_expert_intermediate_size": shared.d_ff,
        }
    )


WEIGHTS = (
    *llama.WEIGHTS,
    *qwen3_moe.EXPERTS,
    *(
        Rule(f"model.layers.{{i}}.mlp.shared_expert.{name}.weight", f"layers.{{i}}.mlp.shared.{name}.weight")
        for name in ("gate_proj", "up_proj", "down_proj")
    ),
    Rule("model.layers.{i}.mlp.shared_expert_gate.weight", "layers.{i}.mlp.shared_gate.weight"),
)
ALSO = in_memory(WEIGHTS, "mlp")
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    return (
        common_keys("qwen2moe", metadata, tensors)
        | experts_keys("qwen2moe", metadata, normalize=False)
        | {
            "model_type": "qwen2_moe",
            "norm_topk_prob": False,
            "moe_intermediate_size": expert_width("qwen2moe", metadata, tensors),
            "shared_expert_intermediate_size": metadata.needed("qwen2moe.expert_shared_feed_forward_length"),
        }
    )


GGUF = GGUF(
    architecture="qwen2moe",
    needs=("output.weight",),
    hf=gguf_hf,
    weights=(*llama_rules(), *EXPERT_RULES, *SHARED_EXPERT_RULES),
    experts=True,
)

TINY = llama.TINY | {
    "model_type": "qwen2_moe",
    "tie_word_embeddings": False,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
    "norm_topk_prob": False,
    "decoder_sparse_step": 1,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "no_qkv_bias": {"qkv_bias": False},
    "normalized": {"norm_topk_prob": True},
    "every_second": {"decoder_sparse_step": 2},
    "tied": {"tie_word_embeddings": True},
    "window": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
}
