"""A.X K1: DeepSeek-V3 with one more norm, of what a mixture of experts makes. Source: transformers models/axk1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.config import ModelConfig, PartNorms
from pellucid.families import deepseek_v3, llama
from pellucid.families.translation import experts
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import Rule, without

HARMLESS = deepseek_v3.HARMLESS
DEFAULTS = deepseek_v3.DEFAULTS | {"max_position_embeddings": 32768}


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys({**DEFAULTS, **hf}, HARMLESS)
    keys.only("moe_layer_freq", 1)
    expert, mixture = experts.deepseek_experts(keys, num_experts=192, width=2048)
    mixture = replace(mixture, correction_bias=False)  # released without; transformers, which has it, fills in zeros
    whole = deepseek_v3.build(keys, mlps=experts.mlps_of(keys, expert, mixture, experts.sparse_after(keys, 1)))
    norms = PartNorms(before=whole.final_norm, after=whole.final_norm)
    layers = (replace(layer, mlp_norms=norms) if layer.experts else layer for layer in whole.layers)
    return replace(whole, layers=tuple(layers))


def to_hf(config: ModelConfig) -> dict[str, Any]:
    kinds = ["sparse" if layer.experts else "dense" for layer in config.layers]
    return deepseek_v3.to_hf(config) | {"architectures": ["AXK1ForCausalLM"], "mlp_layer_types": kinds}


WEIGHTS = (
    *without(deepseek_v3.WEIGHTS, "e_score_correction_bias"),
    Rule("model.layers.{i}.post_mlp_layernorm.weight", "layers.{i}.mlp_post_norm.weight"),
)
ALSO = (
    *experts.in_memory(WEIGHTS, "mlp"),
    Rule("model.layers.{i}.mlp.post_mlp_layernorm.weight", "layers.{i}.mlp_post_norm.weight"),
)
IGNORED = (*llama.IGNORED, "model.layers.*.post_mlp_layernorm.weight")  # of dense layers, where nothing reads it
GGUF = None

TINY = {name: value for name, value in deepseek_v3.TINY.items() if name != "first_k_dense_replace"} | {
    "model_type": "axk1",
    "mlp_layer_types": ["dense", "sparse", "sparse"],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default_types": {"mlp_layer_types": None},
    "one_group": {"n_group": 1, "topk_group": 1, "n_shared_experts": 2},
    "halves": {"rope_interleave": False, "attention_bias": True},
    "yarn": {"rope_scaling": deepseek_v3.VARIANTS["yarn"]["rope_scaling"]},
}
