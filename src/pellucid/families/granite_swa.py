"""Granite with windows: sinks in every head, and each layer's own θ, or none.

Source: transformers models/granite_swa.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.base.errors import ConfigError
from pellucid.config import ModelConfig
from pellucid.families import gemma3, granite, llama
from pellucid.families.translation.hf import Keys, rope
from pellucid.families.translation.rules import Rule


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    return granite.build(keys, sinks=True, tied=True, eps=1e-5, **by_layer(keys))


def by_layer(keys: Keys) -> dict[str, Any]:
    """Each layer's window (none in every fourth, from the first on) and rotation (none where its θ is 0)."""
    num_layers, context_len = keys.num_layers("num_hidden_layers"), keys.size("max_position_embeddings", 8192)
    kinds = keys.get("layer_types") or ["sliding_attention" if i % 4 else "full_attention" for i in range(num_layers)]
    kinds = gemma3.layer_types(Keys({"num_hidden_layers": num_layers, "layer_types": kinds}, where=keys.where), every=4)
    head_dim = keys.size("head_dim", max(keys.size("hidden_size") // keys.size("num_attention_heads"), 1))
    rotary, window = rope(keys, head_dim, context_len), keys.get("sliding_window", 128)
    thetas = keys.get("layer_rope_theta", [rotary.theta] * num_layers)
    if not isinstance(thetas, list) or len(thetas) != num_layers:
        raise ConfigError("layer_rope_theta must be a number for each layer", where=keys.where, received=repr(thetas))
    return {
        "ropes": [replace(rotary, theta=theta) if theta else None for theta in thetas],
        "windows": [window if kind == "sliding_attention" else None for kind in kinds],
    }


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return granite.to_hf(config) | by_layer_to_hf(config) | {"architectures": ["GraniteSWAForCausalLM"]}


def by_layer_to_hf(config: ModelConfig) -> dict[str, Any]:
    mixers = [layer.mixer for layer in config.layers]
    return {
        "sliding_window": next((mixer.window for mixer in mixers if mixer.window), None),
        "layer_types": ["sliding_attention" if mixer.window else "full_attention" for mixer in mixers],
        "layer_rope_theta": [mixer.rope.theta if mixer.rope else 0 for mixer in mixers],
    }


SINKS = Rule("model.layers.{i}.self_attn.sinks", "layers.{i}.attention.sinks")
WEIGHTS = (*llama.WEIGHTS, SINKS)
IGNORED = (*llama.IGNORED, "*.rotary_embs.*.inv_freq")
GGUF = None

WINDOWS = {
    "sliding_window": 8,
    "num_hidden_layers": 3,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    "layer_rope_theta": [0, 10000.0, 500.0],
}
TINY = granite.TINY | WINDOWS | {"model_type": "granite_swa"}
VARIANTS: dict[str, dict[str, Any]] = granite.VARIANTS | {
    "silent": {"layer_types": None, "layer_rope_theta": None, "num_hidden_layers": 5},
}
