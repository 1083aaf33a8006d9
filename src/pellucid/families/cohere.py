"""Command R: attention and MLP side by side, of one LayerNorm without bias; logits times a number.

Source: transformers models/cohere. Norms of q and k with a γ for each head (Command R+) are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig, NormConfig, PartNorms
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, common_keys, has_bias, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, rope
from pellucid.families.translation.rules import without


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    keys.only("use_qk_norm", False)
    return build(keys)


def build(keys: Keys, kinds: Sequence[str] | None = None, window: int | None = None, theta: float = 5e5) -> ModelConfig:
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
    }


WEIGHTS = without(llama.WEIGHTS, "post_attention_layernorm")
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array], architecture: str = "command-r") -> dict[str, Any]:
    common = common_keys(architecture, metadata, tensors, eps="layer_norm_epsilon")
    return common | {
        "model_type": "cohere",
        "layer_norm_eps": common.pop("rms_norm_eps"),
        "attention_bias": has_bias(tensors, "attn_q", "attn_k", "attn_v", "attn_output"),
        "logit_scale": metadata.scalar(f"{architecture}.logit_scale", 0.0) or 1.0,
    }


GGUF = GGUF(
    architecture="command-r",
    lacks=("*.bias", "output.weight"),
    hf=gguf_hf,
    weights=without(llama_rules(), "ffn_norm"),
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
}
