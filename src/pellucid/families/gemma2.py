"""Gemma 2: Gemma with a norm after each part too, soft caps on scores and logits, a window in every other layer.

Source: Gemma Team 2024, *Gemma 2* §2; transformers models/gemma2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig, NormConfig, PartNorms
from pellucid.families import gemma3, llama
from pellucid.families.translation.gguf import GGUF, POST_NORM_RULES, common_keys, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import with_offset

HARMLESS = ("cache_implementation",)


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    keys.only("use_bidirectional_attention", False)
    keys.only("hidden_act", "gelu_pytorch_tanh")  # some files have it beside hidden_activation
    norm = NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-6), offset=keys.get("norm_weight_offset", 1.0))
    bias, queries = keys.switch("attention_bias", False), keys.get("query_pre_attn_scalar", 256)
    window = keys.size("sliding_window", 4096)
    caps = (
        keys.get(name, None if name in hf else default)
        for name, default in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0))
    )
    score_cap, logit_cap = caps
    return llama.build(
        keys,
        qkv_bias=bias,
        o_bias=bias,
        activation=keys.activation("hidden_activation", "gelu_pytorch_tanh"),
        norm=norm,
        norms=PartNorms(before=norm, after=norm),
        head_dim=256,
        windows=[window if kind == "sliding_attention" else None for kind in gemma3.layer_types(keys, every=2)],
        attention={"scale": queries**-0.5, "softcap": score_cap},
        embedding_scale=math.sqrt(keys.size("hidden_size")),
        logit_softcap=logit_cap,
        tied=True,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    attention, hf = config.layers[0].mixer, llama.base_to_hf(config)
    window = next((layer.mixer.window for layer in config.layers if layer.mixer.window), config.context_len)
    return hf | {
        "architectures": ["Gemma2ForCausalLM"],
        "hidden_activation": hf.pop("hidden_act"),
        "attention_bias": attention.qkv_bias,
        "query_pre_attn_scalar": round(attention.softmax_scale**-2),
        "sliding_window": window,
        "layer_types": ["sliding_attention" if layer.mixer.window else "full_attention" for layer in config.layers],
        "attn_logit_softcapping": attention.softcap,
        "final_logit_softcapping": config.logit_softcap,
    }


WEIGHTS = tuple(rule for rule in gemma3.WEIGHTS if "q_norm" not in rule.theirs and "k_norm" not in rule.theirs)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    common = common_keys("gemma2", metadata, tensors)
    # 27B alone scales by the width of a head that d_model would make. Source: llama.cpp src/models/gemma2.cpp.
    whole = common["hidden_size"] // common["num_attention_heads"]
    return common | {
        "query_pre_attn_scalar": whole if common["num_hidden_layers"] == 46 else common["head_dim"],
        "sliding_window": metadata.scalar("gemma2.attention.sliding_window", 4096),
        "attn_logit_softcapping": metadata.scalar("gemma2.attn_logit_softcapping", 50.0),
        "final_logit_softcapping": metadata.scalar("gemma2.final_logit_softcapping", 30.0),
        "norm_weight_offset": 0.0,  # llama.cpp's converter adds the 1 to every norm
    }


GGUF = GGUF(
    architecture="gemma2",
    lacks=("output.weight",),
    hf=gguf_hf,
    weights=with_offset((*llama_rules(), *POST_NORM_RULES), 0.0),
)

TINY = llama.TINY | {
    "model_type": "gemma2",
    "head_dim": 16,
    "query_pre_attn_scalar": 24,
    "sliding_window": 8,
    "attn_logit_softcapping": 5.0,
    "final_logit_softcapping": 3.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "untied": {"tie_word_embeddings": False},
    "bias": {"attention_bias": True},
    "layer_types": {"layer_types": ["full_attention", "sliding_attention"]},
}
