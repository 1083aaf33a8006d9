"""Code World Model: Llama's shape with a window in three of four layers, of which the first sees all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig
from pellucid.families import gemma3, llama
from pellucid.families.translation.hf import Keys, rope

_ROPE = {  # where the file has none
    "rope_type": "llama3",
    "rope_theta": 1e6,
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf if hf.get("rope_parameters") or hf.get("rope_scaling") else {**hf, "rope_parameters": _ROPE})
    num_layers, head_dim = keys.num_layers("num_hidden_layers"), keys.size("head_dim", 128)
    keys.get("layer_types")
    kinds = ["full_attention" if i % 4 == 0 else "sliding_attention" for i in range(num_layers)]
    if hf.get("layer_types"):
        kinds = gemma3.layer_types(keys, every=4)
    window = keys.get("sliding_window", 8192)
    return llama.build(
        keys,
        eps=1e-5,
        mlp_bias=keys.switch("mlp_bias", False),
        rotary=rope(keys, head_dim, keys.size("max_position_embeddings", 131072), default_theta=1e6),
        windows=[window if kind == "sliding_attention" else None for kind in kinds],
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    hf, windows = llama.base_to_hf(config), [layer.mixer.window for layer in config.layers]
    scaling = hf.pop("rope_scaling") or {"rope_type": "default"}
    return hf | {
        "architectures": ["CwmForCausalLM"],
        "mlp_bias": config.layers[0].mlp.bias,
        "rope_parameters": scaling | {"rope_theta": hf.pop("rope_theta")},
        "sliding_window": next((window for window in windows if window), config.context_len),
        "layer_types": ["sliding_attention" if window else "full_attention" for window in windows],
    }


WEIGHTS = llama.WEIGHTS
IGNORED = llama.IGNORED
GGUF = None

TINY = llama.TINY | {
    "model_type": "cwm",
    "head_dim": 8,
    "tie_word_embeddings": False,
    "sliding_window": 8,
    "rope_scaling": llama.VARIANTS["llama3"]["rope_scaling"],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "layer_types": {"layer_types": ["sliding_attention", "full_attention"]},
    "rope": {"rope_scaling": None},
    "tied": {"tie_word_embeddings": True},
}
