"""Command R: attention and MLP side by side, of one LayerNorm without bias; logits times a number.

Command R+ norms q and k, with a γ for each head. Source: transformers models/cohere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError
from pellucid.config import ModelConfig, NormConfig, PartNorms
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, common_keys, has_bias, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, rope
from pellucid.families.translation.rules import GammaByHead, Rule, without


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    return build(keys, qk_norm=keys.switch("use_qk_norm", False))


def build(
    keys: Keys,
    kinds: Sequence[str] | None = None,
    window: int | None = None,
    theta: float = 5e5,
    qk_norm: bool = False,
) -> ModelConfig:
    """Command R's shape; where layers are of two ``kinds``, those with a window alone rotate."""
    head_dim = keys.size("head_dim", max(keys.size("hidden_size") // keys.size("num_attention_heads"), 1))
    context_len, num_layers = keys.size("max_position_embeddings", 8192), keys.num_layers("num_hidden_layers")
    rotary = rope(keys, head_dim, context_len, default_theta=theta, layout="interleaved")
    norm = NormConfig(kind="layer", eps=keys.get("layer_norm_eps", 1e-5))
    bias, near = keys.switch("attention_bias", False), "sliding_attention"
    return llama.build(
        keys,
        qkv_bias=bias,
        o_bias=bias,
        norm=norm,
        norms=(PartNorms(before=norm), PartNorms()),
        ropes=[rotary if kind == near else None for kind in kinds] if kinds else (rotary,) * num_layers,
        windows=[window if kind == near else None for kind in kinds] if kinds else None,
        qk_norm=qk_norm,
        attention={"qk_norm_over": "each"} if qk_norm else None,
        layer={"parallel": True},
        logit_scale=keys.get("logit_scale", 0.0625),
        tied=True,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    hf = llama.base_to_hf(config)
    return hf | {
        "architectures": ["CohereForCausalLM"],
        "layer_norm_eps": hf.pop("rms_norm_eps"),
        "attention_bias": config.layers[0].mixer.qkv_bias,
        "logit_scale": config.logit_scale,
        **({"use_qk_norm": True} if config.layers[0].mixer.qk_norm else {}),
    }


WEIGHTS = (
    *without(llama.WEIGHTS, "post_attention_layernorm"),
    *(
        Rule(f"model.layers.{{i}}.self_attn.{name}.weight", f"layers.{{i}}.attention.{name}.weight", (GammaByHead(),))
        for name in ("q_norm", "k_norm")
    ),
)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array], architecture: str = "command-r") -> dict[str, Any]:
    common = common_keys(architecture, metadata, tensors, eps="layer_norm_epsilon")
    return common | {
        "model_type": "cohere",
        "layer_norm_eps": common.pop("rms_norm_eps"),
        "attention_bias": has_bias(tensors, "attn_q", "attn_k", "attn_v", "attn_output"),
        "logit_scale": metadata.scalar(f"{architecture}.logit_scale", 0.0) or 1.0,
        "use_qk_norm": "blk.0.attn_q_norm.weight" in tensors,
    }


def gguf_keys(config: ModelConfig) -> dict[str, Any]:
    """llama.cpp looks for norms of q and k in models of so many layers alone."""
    if config.layers[0].mixer.qk_norm and config.num_layers < 64:
        raise UnsupportedError(
            "llama.cpp's command-r has norms of q and k from 64 layers on", where="GGUF", received=config.num_layers
        )
    return {}


GGUF = GGUF(
    architecture="command-r",
    lacks=("*.bias", "output.weight"),
    hf=gguf_hf,
    write=gguf_keys,
    weights=tuple(
        replace(rule, transforms=(GammaByHead(),)) if "_q_norm.w" in rule.theirs or "_k_norm.w" in rule.theirs else rule
        for rule in without(llama_rules(), "ffn_norm")
    ),
    harmless=("attention.layer_norm_rms_epsilon",),
)

TINY = {name: value for name, value in llama.TINY.items() if name != "rms_norm_eps"} | {
    "model_type": "cohere",
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.25,
    "pad_token_id": 0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "bias": {"attention_bias": True},
    "untied": {"tie_word_embeddings": False},
    "odd": {"logit_scale": 0.3},
    "qk_norm": {"use_qk_norm": True},
}
