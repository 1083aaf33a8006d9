"""Granite 3 MoE: Granite's scales, every MLP a mixture of experts. Source: IBM Granite Team 2024, *Granite 3.0 Language
Models* §2; transformers models/granitemoe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig
from pellucid.families import granite, llama
from pellucid.families.translation.experts import ByLayer, a_sparse_layer, fused
from pellucid.families.translation.gguf import EXPERT_RULES, GGUF, SHARED_EXPERT_RULES, expert_width, experts_keys
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import Rule, without


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    return granite.build(keys, mlps=mlps(keys))


def mlps(keys: Keys) -> ByLayer:
    """Every layer's expert and routing; ``shared_intermediate_size`` is the width of one for every token, or 0."""
    activation = keys.activation("hidden_act", "silu")
    together = keys.get("shared_intermediate_size", 0)
    experts = ExpertsConfig(
        num_experts=keys.size("num_local_experts", 8),
        experts_per_token=keys.size("num_experts_per_tok", 2),
        shared=MLPConfig(d_ff=keys.size("shared_intermediate_size"), activation=activation) if together else None,
    )
    expert = MLPConfig(d_ff=keys.size("intermediate_size", 11008), activation=activation)
    return ((expert, experts),) * keys.num_layers("num_hidden_layers")


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return granite.to_hf(config) | experts_to_hf(config) | {"architectures": ["GraniteMoeForCausalLM"]}


def experts_to_hf(config: ModelConfig) -> dict[str, Any]:
    _, experts = a_sparse_layer(config)
    written = {"num_local_experts": experts.num_experts, "num_experts_per_tok": experts.experts_per_token}
    return written | ({"shared_intermediate_size": experts.shared.d_ff} if experts.shared else {})


_BLOCK = "model.layers.{i}.block_sparse_moe"
WEIGHTS = (
    *without(llama.WEIGHTS, ".mlp."),
    Rule(f"{_BLOCK}.router.layer.weight", "layers.{i}.mlp.router.weight"),
    *fused(_BLOCK, "input_linear.weight", "output_linear.weight"),
)
ALSO = (
    Rule(f"{_BLOCK}.router.weight", "layers.{i}.mlp.router.weight"),
    *fused(f"{_BLOCK}.experts"),
)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    """Either kind's: with an expert that every token goes through, and without."""
    routed = experts_keys("granitemoe", metadata, normalize=True)
    shared = metadata.scalar("granitemoe.expert_shared_feed_forward_length", 0)
    return granite.gguf_hf(metadata, tensors, "granitemoe") | {
        "model_type": "granitemoeshared" if shared else "granitemoe",
        "num_local_experts": routed["num_experts"],
        "num_experts_per_tok": routed["num_experts_per_tok"],
        "intermediate_size": expert_width("granitemoe", metadata, tensors),
        **({"shared_intermediate_size": shared} if shared else {}),
    }


GGUF = GGUF(
    architecture="granitemoe",
    write=granite.GGUF.write,
    hf=gguf_hf,
    weights=(*granite.GGUF.weights, *EXPERT_RULES, *SHARED_EXPERT_RULES),
    ignored=("rope_freqs.weight",),
    experts=True,
)

TINY = granite.TINY | {"model_type": "granitemoe", "intermediate_size": 24, "num_local_experts": 8}
VARIANTS: dict[str, dict[str, Any]] = {
    "bias": {"attention_bias": True, "num_experts_per_tok": 3},
    "untied": {"tie_word_embeddings": False},
}
