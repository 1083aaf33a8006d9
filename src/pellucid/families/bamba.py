"""Bamba: Llama's shape with Mamba-2 in most layers in attention's place; attention turns half of each head.

Source: IBM, Princeton, CMU and UIUC 2024 (*Bamba*); transformers models/bamba.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.hf import Keys, partial_rotary_to_hf, rope
from pellucid.families.translation.mamba import (
    PREFIXED_HARMLESS,
    mamba2_rules,
    prefixed_mamba2,
    prefixed_to_hf,
)
from pellucid.families.translation.rules import renamed

HARMLESS = (*PREFIXED_HARMLESS, "z_loss_coefficient")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    norm = NormConfig(eps=keys.get("rms_norm_eps", 1e-5))
    num_layers, attends = keys.num_layers("num_hidden_layers"), keys.get("attn_layer_indices", [])
    head_dim = max(keys.size("hidden_size") // keys.size("num_attention_heads"), 1)
    bias, mamba2 = keys.switch("attention_bias", False), prefixed_mamba2(keys, norm.eps)
    return llama.build(
        keys,
        norm=norm,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=keys.switch("mlp_bias", False),
        rotary=rope(keys, head_dim, keys.size("max_position_embeddings", 262144), partial=0.5),
        mixers=[None if i in attends else mamba2 for i in range(num_layers)],
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    attention = next((layer.attention for layer in config.layers if layer.attention), None)
    rotated = attention.rope.dim if attention and attention.rope else 0
    return (
        llama.base_to_hf(config)
        | prefixed_to_hf(config)
        | {
            "architectures": ["BambaForCausalLM"],
            "attn_layer_indices": [i for i, layer in enumerate(config.layers) if layer.attention],
            "attention_bias": bool(attention and attention.qkv_bias),
            "mlp_bias": config.layers[0].mlp.bias,
            "partial_rotary_factor": partial_rotary_to_hf(attention.head_dim, rotated) if attention else 0.5,
        }
    )


WEIGHTS = (
    *renamed(
        llama.WEIGHTS,
        {
            "post_attention_layernorm": "pre_ff_layernorm",
            ".mlp.": ".feed_forward.",
            "model.norm.": "model.final_layernorm.",
        },
    ),
    *mamba2_rules("model.layers.{i}.mamba"),
)
IGNORED = llama.IGNORED
GGUF = None

TINY = llama.TINY | {
    "model_type": "bamba",
    "num_hidden_layers": 3,
    "attn_layer_indices": [1],
    "tie_word_embeddings": False,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 6,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 8,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"attention_bias": True, "mlp_bias": True, "mamba_proj_bias": True},
    "no_conv_bias": {"mamba_conv_bias": False},
    "tied": {"tie_word_embeddings": True},
    "one_group": {"mamba_n_groups": 1, "mamba_n_heads": 4, "mamba_d_head": "auto", "mamba_d_conv": 3},
}
