"""Helium: Llama's shape turned in neighbouring pairs; γ multiplies in float32. Source: transformers models/helium."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.hf import Keys, rope


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    head_dim, context_len = keys.size("head_dim", 128), keys.size("max_position_embeddings", 4096)
    return llama.build(
        keys,
        qkv_bias=keys.switch("attention_bias", False),
        mlp_bias=keys.switch("mlp_bias", False),
        norm=NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-8), wide=True),
        head_dim=head_dim,
        rotary=rope(keys, head_dim, context_len, default_theta=1e5, layout="interleaved"),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return llama.to_hf(config) | {"architectures": ["HeliumForCausalLM"]}


WEIGHTS = llama.WEIGHTS
IGNORED = llama.IGNORED
GGUF = None

TINY = llama.TINY | {"model_type": "helium", "head_dim": 8, "rms_norm_eps": 1e-8, "tie_word_embeddings": False}
VARIANTS = {name: llama.VARIANTS[name] for name in ("biases", "rope_theta", "multi_head")} | {
    "tied": {"tie_word_embeddings": True}
}
