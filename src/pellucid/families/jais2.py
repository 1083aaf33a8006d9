"""Jais 2: Llama's shape with LayerNorm, an MLP without a gate and relu², and biases everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.hf import Keys


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    attention_bias = keys.switch("attention_bias", True)
    return llama.build(
        keys,
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=keys.switch("mlp_bias", True),
        gated=False,
        activation=keys.activation("hidden_act", "relu2"),
        norm=NormConfig(kind="layer", eps=keys.get("layer_norm_eps", 1e-5), bias=True),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    hf = llama.to_hf(config)
    return hf | {"architectures": ["Jais2ForCausalLM"], "layer_norm_eps": hf.pop("rms_norm_eps")}


WEIGHTS = llama.WEIGHTS
IGNORED = llama.IGNORED
GGUF = None

TINY = {name: value for name, value in llama.TINY.items() if name != "rms_norm_eps"} | {
    "model_type": "jais2",
    "hidden_act": "relu2",
    "tie_word_embeddings": False,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "no_bias": {"attention_bias": False, "mlp_bias": False},
    "tied": {"tie_word_embeddings": True},
}
