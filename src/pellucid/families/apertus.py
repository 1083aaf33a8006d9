"""Apertus: Llama's shape with norms of each head's q and k, and an MLP without a gate whose xIELU is learned.

Source: Apertus team 2025; Huang & Schlag 2024 (xIELU); transformers models/apertus.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.notice import notice
from pellucid.config import ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.hf import Keys, rope
from pellucid.families.translation.rules import OneNumber, Rule, both, renamed, without

ROPE = {
    "rope_type": "llama3",
    "rope_theta": 12000000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}


def config(hf: Mapping[str, Any]) -> ModelConfig:
    said = any(hf.get(name) for name in ("rope_parameters", "rope_scaling"))
    keys = Keys(hf if said else {**hf, "rope_parameters": ROPE})
    if not said and hf.get("rope_theta") not in (None, ROPE["rope_theta"]):
        notice(f"{keys.where}: rope_theta has no effect without rope_parameters, as in transformers")
    bias, heads = keys.switch("attention_bias", False), keys.size("num_attention_heads", 32)
    head_dim = max(keys.size("hidden_size", 4096) // heads, 1)
    return llama.build(
        keys,
        qkv_bias=bias,
        o_bias=bias,
        gated=False,
        activation=keys.activation("hidden_act", "xielu"),
        norm=NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-5)),
        qk_norm=True,
        rotary=rope(keys, head_dim, keys.size("max_position_embeddings", 65536), default_theta=12000000.0),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    hf = llama.base_to_hf(config)
    del hf["head_dim"]
    if hf["rope_scaling"] is None:  # said outright: silence means the stretch above
        hf["rope_scaling"] = {"rope_type": "default", "rope_theta": hf["rope_theta"]}
    return hf | {
        "architectures": ["ApertusForCausalLM"],
        "attention_bias": config.layers[0].mixer.qkv_bias,
    }


_AT, _OURS = "model.layers.{i}.", "layers.{i}."
WEIGHTS = (
    *renamed(
        without(llama.WEIGHTS, "gate_proj"),
        {"input_layernorm": "attention_layernorm", "post_attention_layernorm": "feedforward_layernorm"},
    ),
    *both(_AT + "self_attn.q_norm", _OURS + "attention.q_norm"),
    *both(_AT + "self_attn.k_norm", _OURS + "attention.k_norm"),
    *(Rule(f"{_AT}mlp.act_fn.{name}", f"{_OURS}mlp.xielu.{name}") for name in ("alpha_p", "alpha_n")),
    *(Rule(f"{_AT}mlp.act_fn.{name}", f"{_OURS}mlp.xielu.{name}", (OneNumber(),)) for name in ("beta", "eps")),
)
IGNORED = llama.IGNORED
GGUF = None

TINY = llama.TINY | {"model_type": "apertus", "hidden_act": "xielu", "tie_word_embeddings": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "bias": {"attention_bias": True},
    "tied": {"tie_word_embeddings": True},
    "rope_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "relu2": {"hidden_act": "relu2"},
}
