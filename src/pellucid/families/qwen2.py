"""Qwen2 and Qwen2.5 (dense): Llama's shape with biases on q, k and v, and sliding windows in the upper layers where
switched on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError
from pellucid.config import ModelConfig
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, common_keys, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    return llama.build(keys, qkv_bias=True, windows=windows(keys))


def windows(keys: Keys, otherwise: list[str] | None = None) -> tuple[int | None, ...]:
    """Each layer's window: ``layer_types`` says which, or ``otherwise`` does, or it is all from ``max_window_layers``
    on; none unless ``use_sliding_window``.
    """
    num_layers = keys.num_layers("num_hidden_layers")
    window = keys.get("sliding_window", 4096)
    if not keys.get("use_sliding_window", False):
        window = None
    first = keys.get("max_window_layers", 28)
    types = (
        keys.get("layer_types")
        or otherwise
        or ["sliding_attention" if i >= first else "full_attention" for i in range(num_layers)]
    )
    if len(types) != num_layers or set(types) - {"sliding_attention", "full_attention"}:
        raise ConfigError(
            "layer_types must name each layer's attention",
            where=keys.where,
            expected=f"{num_layers} kinds",
            received=types,
        )
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def windows_to_hf(config: ModelConfig) -> dict[str, Any]:
    by_layer = [layer.mixer.window for layer in config.layers]
    window = next((w for w in by_layer if w), None)
    return {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": next((i for i, w in enumerate(by_layer) if w), config.num_layers),
        "layer_types": ["sliding_attention" if w else "full_attention" for w in by_layer],
    }


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return llama.base_to_hf(config) | windows_to_hf(config) | {"architectures": ["Qwen2ForCausalLM"]}


WEIGHTS = llama.WEIGHTS
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    return common_keys("qwen2", metadata, tensors)


GGUF = GGUF(architecture="qwen2", hf=gguf_hf, weights=llama_rules())

TINY = llama.TINY | {
    "model_type": "qwen2",
    "tie_word_embeddings": False,
    "use_sliding_window": True,
    "sliding_window": 8,
    "max_window_layers": 1,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "no_window": {"use_sliding_window": False},
    "layer_types": {"layer_types": ["sliding_attention", "full_attention"]},
    "tied": {"tie_word_embeddings": True},
    "yarn": llama.VARIANTS["yarn"],
}
