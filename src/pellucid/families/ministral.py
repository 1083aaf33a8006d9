"""Ministral (8B, 2024): Mistral's shape in which ``layer_types`` says which layers have a window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig
from pellucid.families import gemma3, llama, mistral
from pellucid.families.translation.hf import Keys


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys, num_layers = Keys(hf), hf.get("num_hidden_layers")
    window = keys.get("sliding_window", None if "sliding_window" in hf else 4096)
    every = num_layers + 1 if isinstance(num_layers, int) else 1  # without layer_types, all of them
    kinds = gemma3.layer_types(keys, every)
    return llama.build(keys, windows=[window if kind == "sliding_attention" else None for kind in kinds])


def to_hf(config: ModelConfig) -> dict[str, Any]:
    windows = [layer.mixer.window for layer in config.layers]
    return mistral.to_hf(config) | {
        "architectures": ["MinistralForCausalLM"],
        "sliding_window": next((window for window in windows if window), config.context_len),
        "layer_types": ["sliding_attention" if window else "full_attention" for window in windows],
    }


WEIGHTS = llama.WEIGHTS
IGNORED = llama.IGNORED
GGUF = None

TINY = mistral.TINY | {"model_type": "ministral", "layer_types": ["full_attention", "sliding_attention"]}
VARIANTS: dict[str, dict[str, Any]] = {
    "all_windows": {"layer_types": None},
    "no_window": {"layer_types": None, "sliding_window": None},
    "tied": {"tie_word_embeddings": True},
}
