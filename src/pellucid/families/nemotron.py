"""Nemotron-4 and Minitron: LayerNorm whose γ is 1 + the weight, an MLP without a gate and relu², half of a head turns.

Source: Parmar et al. 2024, *Nemotron-4 15B* §2; transformers models/nemotron.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, common_keys, has_bias, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, partial_rotary_to_hf, rope
from pellucid.families.translation.rules import with_offset

HARMLESS = ("rope_percent",)  # partial_rotary_factor again, under an older name


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    head_dim = keys.size("head_dim", max(keys.size("hidden_size") // keys.size("num_attention_heads"), 1))
    attention_bias, offset = keys.switch("attention_bias", False), keys.get("norm_weight_offset", 1.0)
    return llama.build(
        keys,
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=keys.switch("mlp_bias", False),
        gated=False,
        activation=keys.activation("hidden_act", "relu2"),
        norm=NormConfig(kind="layer", eps=keys.get("norm_eps", 1e-5), bias=True, offset=offset),
        rotary=rope(keys, head_dim, keys.size("max_position_embeddings", 4096), partial=0.5),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    attention, hf = config.layers[0].mixer, llama.to_hf(config)
    assert attention.rope
    return hf | {
        "architectures": ["NemotronForCausalLM"],
        "norm_eps": hf.pop("rms_norm_eps"),
        "partial_rotary_factor": partial_rotary_to_hf(attention.head_dim, attention.rope.dim),
    }


WEIGHTS = with_offset(llama.WEIGHTS, 1.0)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    common = common_keys("nemotron", metadata, tensors, partial_rotary=True, eps="layer_norm_epsilon")
    return common | {
        "hidden_act": "relu2",
        "norm_eps": common.pop("rms_norm_eps"),
        "norm_weight_offset": 0.0,  # the converter adds the 1
        "partial_rotary_factor": partial_rotary_to_hf(common["head_dim"], common.pop("rope_dimension_count")),
        "attention_bias": has_bias(tensors, "attn_q", "attn_k", "attn_v", "attn_output"),
        "mlp_bias": has_bias(tensors, "ffn_up", "ffn_down"),
    }


GGUF = GGUF(
    architecture="nemotron",
    needs=("output.weight",),
    hf=gguf_hf,
    weights=with_offset(llama_rules(), 0.0),
    ignored=("rope_freqs.weight",),
    harmless=("attention.layer_norm_rms_epsilon",),
)

TINY = {name: value for name, value in llama.TINY.items() if name != "rms_norm_eps"} | {
    "model_type": "nemotron",
    "hidden_act": "relu2",
    "norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"attention_bias": True, "mlp_bias": True},
    "partial": {"partial_rotary_factor": 1.0},
    "tied": {"tie_word_embeddings": True},
}
