"""GLM-4-9B (transformers' layout): half of each head turns, in neighbouring pairs; gate and up in one matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig, PartNorms
from pellucid.families import llama
from pellucid.families.translation.hf import Keys, partial_rotary_to_hf, rope
from pellucid.families.translation.rules import SPLIT_GATE_UP, Rule, gate_up_names, without


def config(hf: Mapping[str, Any]) -> ModelConfig:
    return build(Keys(hf))


def build(keys: Keys, norms: PartNorms | None = None, **fields: Any) -> ModelConfig:
    """GLM's shape; its relatives have norms elsewhere."""
    head_dim, context_len = keys.size("head_dim", 128), keys.size("max_position_embeddings", 131072)
    return llama.build(
        keys,
        eps=1.5625e-07,
        qkv_bias=keys.switch("attention_bias", True),
        head_dim=head_dim,
        rotary=rope(keys, head_dim, context_len, partial=0.5, layout="interleaved"),
        norms=norms,
        **fields,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    attention = config.layers[0].mixer
    assert attention.rope
    return llama.base_to_hf(config) | {
        "architectures": ["GlmForCausalLM"],
        "attention_bias": attention.qkv_bias,
        "partial_rotary_factor": partial_rotary_to_hf(attention.head_dim, attention.rope.dim),
    }


WEIGHTS = (
    *without(llama.WEIGHTS, "gate_proj", "up_proj"),
    Rule("model.layers.{i}.mlp.gate_up_proj.weight", gate_up_names("weight"), (SPLIT_GATE_UP,)),
)
IGNORED = llama.IGNORED
GGUF = None  # llama.cpp writes it as ``chatglm``

TINY = llama.TINY | {"model_type": "glm", "head_dim": 16, "tie_word_embeddings": False, "pad_token_id": 0}
VARIANTS: dict[str, dict[str, Any]] = {
    "no_bias": {"attention_bias": False},
    "tied": {"tie_word_embeddings": True},
    "partial": {"partial_rotary_factor": 0.25},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
}
