"""LFM2: gated short convolutions, and attention in every few layers. Source: Liquid AI 2025; transformers models/lfm2."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig, NormConfig, ShortConvConfig
from pellucid.families import llama
from pellucid.families.translation.hf import Keys, rope
from pellucid.families.translation.rules import Rule, Split, Squeeze, both, renamed

HARMLESS = ("block_dim", "conv_dim", "conv_dim_out", "num_heads", "theta", "block_*init*", "conv_use_xavier_init")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    tied = hf.get("tie_embedding", hf.get("tie_word_embeddings", True))
    keys = Keys({**hf, "intermediate_size": d_ff(Keys(hf)), "tie_word_embeddings": tied}, HARMLESS)
    keys.get("tie_embedding")
    for name in ("block_ff_dim", "block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of"):
        keys.get(name)
    keys.only("block_use_swiglu", True)
    keys.only("use_pos_enc", True)
    d_model, num_layers = keys.size("hidden_size"), keys.num_layers("num_hidden_layers")
    conv = ShortConvConfig(
        channels=d_model, width=keys.size("conv_L_cache", 3), bias=bool(keys.get("conv_bias", False))
    )
    head_dim = keys.size("head_dim", max(d_model // keys.size("num_attention_heads"), 1))
    eps = keys.get("norm_eps", 1e-5)
    keys.only("block_norm_eps", eps)
    return llama.build(
        keys,
        norm=NormConfig(kind="rms", eps=eps),
        qk_norm=True,
        head_dim=head_dim,
        rotary=rope(keys, head_dim, keys.size("max_position_embeddings", 128_000), default_theta=1e6),
        mixers=[None if attends else conv for attends in layers(keys, num_layers)],
    )


def layers(keys: Keys, num_layers: int) -> list[bool]:
    """Which layers attend."""
    kinds, places = keys.get("layer_types"), keys.get("full_attn_idxs")
    if kinds is None:
        return [places is None or i in places for i in range(num_layers)]
    return keys.choices("layer_types", num_layers, full_attention=True, conv=False)


def d_ff(keys: Keys) -> int:
    """Neurons of an MLP: two thirds of what is said, times a factor, up to a round number, unless it is said as it is."""
    width = keys.size("block_ff_dim", keys.size("intermediate_size", 12288))
    if not keys.get("block_auto_adjust_ff_dim", True):
        return width
    width = int(keys.get("block_ffn_dim_multiplier", 1.0) * int(2 * width / 3))
    multiple = keys.size("block_multiple_of", 256)
    return multiple * math.ceil(width / multiple)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    conv = next(layer.mixer for layer in config.layers if isinstance(layer.mixer, ShortConvConfig))
    hf = llama.base_to_hf(config) | {
        "architectures": ["Lfm2ForCausalLM"],
        "norm_eps": config.final_norm and config.final_norm.eps,
        "conv_L_cache": conv.width,
        "conv_bias": conv.bias,
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["full_attention" if layer.attention else "conv" for layer in config.layers],
    }
    return {name: value for name, value in hf.items() if name not in ("rms_norm_eps", "hidden_act")}


SPLIT_IN = Split(lambda layer: (layer.mixer.channels,) * 3)


def in_names(kind: str) -> tuple[str, ...]:
    return tuple(f"layers.{{i}}.short_conv.{name}_proj.{kind}" for name in "bcu")


NAMES = {
    "self_attn.o_proj": "self_attn.out_proj",
    "input_layernorm": "operator_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "model.norm": "model.embedding_norm",
}
WEIGHTS = (
    *renamed(llama.WEIGHTS, NAMES),
    Rule("model.layers.{i}.self_attn.q_layernorm.weight", "layers.{i}.attention.q_norm.weight"),
    Rule("model.layers.{i}.self_attn.k_layernorm.weight", "layers.{i}.attention.k_norm.weight"),
    *(Rule(f"model.layers.{{i}}.conv.in_proj.{kind}", in_names(kind), (SPLIT_IN,)) for kind in ("weight", "bias")),
    Rule("model.layers.{i}.conv.conv.weight", "layers.{i}.short_conv.conv.weight", (Squeeze(),)),
    Rule("model.layers.{i}.conv.conv.bias", "layers.{i}.short_conv.conv.bias"),
    *both("model.layers.{i}.conv.out_proj", "layers.{i}.short_conv.o_proj"),
)
IGNORED = llama.IGNORED
GGUF = None

TINY = {name: value for name, value in llama.TINY.items() if name != "rms_norm_eps"} | {
    "model_type": "lfm2",
    "num_hidden_layers": 3,
    "norm_eps": 1e-5,
    "conv_L_cache": 3,
    "block_auto_adjust_ff_dim": False,
    "layer_types": ["conv", "full_attention", "conv"],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"conv_bias": True},
    "width": {"conv_L_cache": 4},
    "untied": {"tie_word_embeddings": False},
    "attention_first": {"layer_types": None, "full_attn_idxs": [0]},
    "adjusted": {"block_auto_adjust_ff_dim": True, "block_multiple_of": 8, "block_ffn_dim_multiplier": 1.5},
}
