"""Command R7B and Command A: Command R with a window in three of four layers; those that see all do not rotate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig
from pellucid.families import cohere, gemma3
from pellucid.families.translation.gguf import GGUF
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys

HARMLESS = (  # what is always so
    *("cache_implementation", "order_of_interleaved_layers", "position_embedding_type", "layer_switch"),
    *("use_embedding_sharing", "use_parallel_embedding"),
)


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    keys.only("use_qk_norm", False)
    keys.only("use_parallel_block", True)
    keys.only("use_gated_activation", True)
    keys.only("rotary_pct", 1.0)
    return cohere.build(keys, gemma3.layer_types(keys, every=4), keys.size("sliding_window", 4096), 1e4)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    windows = [layer.mixer.window for layer in config.layers]
    return cohere.to_hf(config) | {
        "architectures": ["Cohere2ForCausalLM"],
        "sliding_window": next((window for window in windows if window), config.context_len),
        "layer_types": ["sliding_attention" if window else "full_attention" for window in windows],
    }


WEIGHTS = cohere.WEIGHTS
IGNORED = cohere.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    common = cohere.gguf_hf(metadata, tensors, "cohere2")
    return {name: value for name, value in common.items() if name != "use_qk_norm"} | {
        "model_type": "cohere2",
        "sliding_window": metadata.needed("cohere2.attention.sliding_window"),
    }


GGUF = GGUF(
    architecture="cohere2",
    lacks=("*.bias", "output.weight"),
    hf=gguf_hf,
    weights=cohere.GGUF.weights,
    harmless=("attention.layer_norm_rms_epsilon",),
)

TINY = cohere.TINY | {
    "model_type": "cohere2",
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "bias": {"attention_bias": True},
    "pattern": {"layer_types": None, "sliding_window_pattern": 2},
}
