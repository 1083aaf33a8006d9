"""LFM2: gated short convolutions, and attention in every few layers.

Source: Liquid AI 2025; transformers models/lfm2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig, NormConfig, ShortConvConfig
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, common_keys, heads_by_layer, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, rope
from pellucid.families.translation.rules import Rule, Split, Squeeze, both, renamed

HARMLESS = ("block_dim", "conv_dim", "conv_dim_out", "num_heads", "theta", "block_*init*", "conv_use_xavier_init")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys({**hf, "intermediate_size": d_ff(Keys(hf)), "tie_word_embeddings": tied(hf)}, HARMLESS)
    for name in ("block_ff_dim", "block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of"):
        keys.get(name)
    return build(keys)


def tied(hf: Mapping[str, Any]) -> bool:
    """Whether the output layer is the embedding table, by either name of the key."""
    said = hf.get("tie_embedding")
    said = hf.get("tie_word_embeddings") if said is None else said
    return True if said is None else bool(said)


def build(keys: Keys, mlps: tuple[tuple[MLPConfig, ExpertsConfig | None], ...] | None = None) -> ModelConfig:
    """LFM2's shape; a mixture of experts has MLPs of its own."""
    for name in ("tie_embedding", "hidden_act"):
        keys.get(name)
    keys.only("block_use_swiglu", True)
    keys.only("use_pos_enc", True)
    d_model, num_layers = keys.size("hidden_size"), keys.num_layers("num_hidden_layers")
    conv = ShortConvConfig(channels=d_model, width=keys.size("conv_L_cache", 3), bias=keys.switch("conv_bias", False))
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
        mlps=mlps,
    )


def layers(keys: Keys, num_layers: int) -> list[bool]:
    """Which layers attend."""
    kinds, places = keys.get("layer_types"), keys.get("full_attn_idxs")
    if kinds is None:
        return [places is None or i in places for i in range(num_layers)]
    return keys.choices("layer_types", num_layers, full_attention=True, conv=False)


def d_ff(keys: Keys) -> int:
    """Neurons of an MLP: two thirds of what is said, times a factor, up to a round number; or what is said."""
    width = keys.size("block_ff_dim", keys.size("intermediate_size", 12288))
    if not keys.get("block_auto_adjust_ff_dim", True):
        return width
    width = int(keys.get("block_ffn_dim_multiplier", 1.0) * int(2 * width / 3))
    multiple = keys.size("block_multiple_of", 256)
    return multiple * math.ceil(width / multiple)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return base_to_hf(config) | {"architectures": ["Lfm2ForCausalLM"], "block_auto_adjust_ff_dim": False}


def base_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The keys that LFM2-MoE has, too."""
    conv = next(layer.mixer for layer in config.layers if isinstance(layer.mixer, ShortConvConfig))
    hf = llama.base_to_hf(config) | {
        "norm_eps": config.final_norm and config.final_norm.eps,
        "conv_L_cache": conv.width,
        "conv_bias": conv.bias,
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


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array], architecture: str = "lfm2") -> dict[str, Any]:
    """llama.cpp says which layers attend by how many heads of keys and values each has: none where it does not."""
    heads = heads_by_layer(architecture, metadata)
    hf = common_keys(architecture, metadata, tensors, kv_heads=max(heads) or 1)
    return {name: value for name, value in hf.items() if name != "rms_norm_eps"} | {
        "norm_eps": hf["rms_norm_eps"],
        "conv_L_cache": metadata.needed(f"{architecture}.shortconv.l_cache"),
        "block_auto_adjust_ff_dim": False,
        "conv_bias": any("shortconv" in name and name.endswith(".bias") for name in tensors),
        "layer_types": ["full_attention" if count else "conv" for count in heads],
    }


AT = "blk.{i}.shortconv"
GGUF = GGUF(
    architecture="lfm2",
    lacks=("blk.*.shortconv.*.bias",),
    hf=gguf_hf,
    weights=(
        *(replace(rule, theirs=rule.theirs.replace("output_norm", "token_embd_norm")) for rule in llama_rules()),
        *(Rule(f"{AT}.in_proj.{kind}", in_names(kind), (SPLIT_IN,)) for kind in ("weight", "bias")),
        *both(f"{AT}.conv", "layers.{i}.short_conv.conv"),
        *both(f"{AT}.out_proj", "layers.{i}.short_conv.o_proj"),
    ),
)

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
