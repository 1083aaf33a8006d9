"""Mistral: Llama's shape, in old versions with a sliding window in every layer. Source: Jiang et al. 2023.

llama.cpp writes its GGUF files as ``llama``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig
from pellucid.families import llama
from pellucid.families.translation.hf import Keys


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    window = keys.get("sliding_window", None if "sliding_window" in hf else 4096)
    return llama.build(keys, windows=(window,) * keys.num_layers("num_hidden_layers"))


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return llama.base_to_hf(config) | {
        "architectures": ["MistralForCausalLM"],
        "sliding_window": config.layers[0].mixer.window,
    }


WEIGHTS = llama.WEIGHTS
IGNORED = llama.IGNORED
GGUF = None

TINY = llama.TINY | {"model_type": "mistral", "tie_word_embeddings": False, "sliding_window": 8}
VARIANTS: dict[str, dict[str, Any]] = {
    "no_window": {"sliding_window": None},
    "wide_heads": {"head_dim": 16},
    "tied": {"tie_word_embeddings": True},
    "yarn": llama.VARIANTS["yarn"],
}
