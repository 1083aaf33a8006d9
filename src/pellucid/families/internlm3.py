"""InternLM 3: Llama's shape; ``qkv_bias`` and ``bias`` are the names of its biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig
from pellucid.families import llama
from pellucid.families.translation.hf import Keys


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    qkv_bias = bool(keys.get("qkv_bias", keys.get("attention_bias", False)))
    bias = bool(keys.get("bias", keys.get("mlp_bias", False)))
    return llama.build(keys, eps=1e-5, qkv_bias=qkv_bias, o_bias=bias, mlp_bias=bias, head_dim=128)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer = config.layers[0]
    return llama.base_to_hf(config) | {
        "architectures": ["InternLM3ForCausalLM"],
        "qkv_bias": layer.mixer.qkv_bias,
        "bias": layer.mlp.bias,
    }


WEIGHTS = llama.WEIGHTS
IGNORED = llama.IGNORED
GGUF = None

TINY = llama.TINY | {"model_type": "internlm3", "head_dim": 8, "tie_word_embeddings": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"qkv_bias": True, "bias": True},
    "dynamic": llama.VARIANTS["dynamic"],
    "tied": {"tie_word_embeddings": True},
}
