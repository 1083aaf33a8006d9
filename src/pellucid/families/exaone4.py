"""EXAONE 4: norms after each part and on each head's q and k; with a window, the layers that see all do not rotate.

Source: LG AI Research 2025, *EXAONE 4.0* §2; transformers models/exaone4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig, NormConfig, PartNorms
from pellucid.families import gemma3, llama, olmo2
from pellucid.families.translation.gguf import GGUF, POST_NORM_RULES, common_keys, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, rope


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(in_numbers(hf))
    norm = NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-5))
    return llama.build(keys, norm=norm, norms=PartNorms(after=norm), qk_norm=True, **by_layer(keys))


def in_numbers(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its pattern of layers as a number."""
    return {**hf, "sliding_window_pattern": _every(hf.get("sliding_window_pattern"))}


def by_layer(keys: Keys) -> dict[str, Any]:
    """Each layer's rotation and window: with a window, layers that see all do not rotate."""
    num_layers = keys.num_layers("num_hidden_layers")
    window = keys.get("sliding_window", None if keys.has("sliding_window") else 4096)
    kinds = gemma3.layer_types(keys, every=4) if window else ["full_attention"] * num_layers
    keys.get("layer_types")
    keys.get("sliding_window_pattern")
    head_dim = keys.size("head_dim", max(keys.size("hidden_size") // keys.size("num_attention_heads"), 1))
    rotary = rope(keys, head_dim, keys.size("max_position_embeddings", 2048))
    return {
        "ropes": [rotary if window is None or kind == "sliding_attention" else None for kind in kinds],
        "windows": [window if kind == "sliding_attention" else None for kind in kinds],
    }


def _every(pattern: Any) -> Any:
    """Which layer sees all, from a number or from letters: LLLG, three local ones and a global one."""
    return len(pattern) if isinstance(pattern, str) else pattern or None


def to_hf(config: ModelConfig) -> dict[str, Any]:
    windows = [layer.mixer.window for layer in config.layers]
    return llama.base_to_hf(config) | {
        "architectures": ["Exaone4ForCausalLM"],
        "sliding_window": next((window for window in windows if window), None),
        "layer_types": ["sliding_attention" if window else "full_attention" for window in windows],
    }


WEIGHTS = olmo2.WEIGHTS
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    window = metadata.scalar("exaone4.attention.sliding_window", 0)
    # llama.cpp has windows in the 32B alone, and always, whatever the file says.
    window = (window or 4096) if metadata.scalar("exaone4.block_count") == 64 else 0
    metadata.get("exaone4.attention.sliding_window_pattern")  # llama.cpp has every fourth layer see all, whatever it is
    return common_keys("exaone4", metadata, tensors) | {"sliding_window": window or None}


GGUF = GGUF(
    architecture="exaone4", hf=gguf_hf, weights=(*llama_rules(), *POST_NORM_RULES), ignored=("rope_freqs.weight",)
)

TINY = llama.TINY | {
    "model_type": "exaone4",
    "tie_word_embeddings": False,
    "sliding_window": 8,
    "sliding_window_pattern": 4,
    "layer_types": ["sliding_attention", "full_attention"],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "no_window": {"sliding_window": None, "layer_types": ["full_attention", "full_attention"]},
    "letters": {"sliding_window_pattern": "LG", "layer_types": None},
    "tied": {"tie_word_embeddings": True},
}
