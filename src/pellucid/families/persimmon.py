"""Persimmon: LayerNorm, also on each head's q and k, an MLP without a gate and relu²; half of a head turns.

q, k and v of each head are in one matrix. Source: transformers models/persimmon.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.hf import Keys, partial_rotary_to_hf, rope
from pellucid.families.translation.rules import Rule, SplitHeads, both, qkv_names, renamed, without


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    head_dim = max(keys.size("hidden_size") // keys.size("num_attention_heads"), 1)
    return llama.build(
        keys,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        gated=False,
        activation=keys.activation("hidden_act", "relu2"),
        norm=NormConfig(kind="layer", eps=keys.get("layer_norm_eps", 1e-5), bias=True),
        qk_norm=keys.switch("qk_layernorm", True),
        rotary=rope(keys, head_dim, keys.size("max_position_embeddings", 16384), partial=0.5),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    attention, hf = config.layers[0].mixer, llama.base_to_hf(config)
    assert attention.rope
    for name in ("head_dim", "num_key_value_heads"):
        del hf[name]
    return hf | {
        "architectures": ["PersimmonForCausalLM"],
        "layer_norm_eps": hf.pop("rms_norm_eps"),
        "qk_layernorm": attention.qk_norm is not None,
        "partial_rotary_factor": partial_rotary_to_hf(attention.head_dim, attention.rope.dim),
    }


_AT = "model.layers.{i}.self_attn."
WEIGHTS = (
    *renamed(
        without(llama.WEIGHTS, "q_proj", "k_proj", "v_proj"),
        {
            "o_proj": "dense",
            "up_proj": "dense_h_to_4h",
            "down_proj": "dense_4h_to_h",
            "model.norm": "model.final_layernorm",
        },
    ),
    Rule(_AT + "query_key_value.weight", qkv_names("weight"), (SplitHeads(),)),
    Rule(_AT + "query_key_value.bias", qkv_names("bias"), (SplitHeads(),)),
    *both(_AT + "q_layernorm", "layers.{i}.attention.q_norm"),
    *both(_AT + "k_layernorm", "layers.{i}.attention.k_norm"),
)
IGNORED = llama.IGNORED
GGUF = None

TINY = {name: value for name, value in llama.TINY.items() if name not in ("rms_norm_eps", "num_key_value_heads")} | {
    "model_type": "persimmon",
    "hidden_act": "relu2",
    "tie_word_embeddings": False,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "no_qk_norm": {"qk_layernorm": False},
    "partial": {"partial_rotary_factor": 1.0},
}
