"""SmolLM3: Llama's shape in which every fourth layer does not rotate. Source: transformers models/smollm3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError
from pellucid.config import ModelConfig
from pellucid.families import llama
from pellucid.families.qwen2 import windows_to_hf
from pellucid.families.translation.gguf import GGUF, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, rope

HARMLESS = ("no_rope_layer_interval", "max_window_layers")  # what no_rope_layers and layer_types say by layer


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    num_layers, every = keys.num_layers("num_hidden_layers"), keys.size("no_rope_layer_interval", 4)
    turns = keys.get("no_rope_layers") or [int((i + 1) % every != 0) for i in range(num_layers)]
    if not isinstance(turns, list) or len(turns) != num_layers:
        raise ConfigError("no_rope_layers must have a number for each layer", where=keys.where, received=repr(turns))
    window, windowed = keys.get("sliding_window"), keys.get("use_sliding_window", False)
    kinds = keys.get("layer_types") or ["full_attention" if turn else "sliding_attention" for turn in turns]
    head_dim = keys.size("head_dim", max(keys.size("hidden_size") // keys.size("num_attention_heads"), 1))
    rotary = rope(keys, head_dim, keys.size("max_position_embeddings", 32768), default_theta=2e6)
    attention_bias = keys.switch("attention_bias", False)
    return llama.build(
        keys,
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=keys.switch("mlp_bias", False),
        ropes=[rotary if turn else None for turn in turns],
        windows=[window if windowed and kind == "sliding_attention" else None for kind in kinds],
        tied=True,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    windows = windows_to_hf(config)
    del windows["max_window_layers"]
    return (
        llama.to_hf(config)
        | windows
        | {
            "architectures": ["SmolLM3ForCausalLM"],
            "no_rope_layers": [int(layer.mixer.rope is not None) for layer in config.layers],
        }
    )


WEIGHTS = llama.WEIGHTS
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    return llama.gguf_hf(metadata, tensors, "smollm3")


GGUF = GGUF(
    architecture="smollm3",
    lacks=("*.bias",),
    hf=gguf_hf,
    weights=llama_rules(q=(llama.Q_ROWS,), k=(llama.K_ROWS,)),
    ignored=("rope_freqs.weight",),
)

TINY = llama.TINY | {"model_type": "smollm3", "no_rope_layers": [1, 0], "pad_token_id": 0}
VARIANTS: dict[str, dict[str, Any]] = {
    "interval": {"no_rope_layers": None, "no_rope_layer_interval": 2},
    "window": {"use_sliding_window": True, "sliding_window": 8},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "yarn": llama.VARIANTS["yarn"],
}
