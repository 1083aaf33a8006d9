"""Seed-OSS: Llama's shape with biases on q, k and v, and a head dimension of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, common_keys, has_bias, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import renamed


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    return llama.build(
        keys,
        qkv_bias=keys.switch("attention_bias", True),
        o_bias=keys.switch("attention_out_bias", False),
        mlp_bias=keys.switch("mlp_bias", False),
        head_dim=128,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return llama.to_hf(config) | {
        "architectures": ["SeedOssForCausalLM"],
        "attention_out_bias": config.layers[0].mixer.o_bias,
    }


WEIGHTS = llama.WEIGHTS
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    return common_keys("seed_oss", metadata, tensors) | {
        "attention_bias": has_bias(tensors, "attn_q", "attn_k", "attn_v"),
        "attention_out_bias": has_bias(tensors, "attn_output"),
        "mlp_bias": has_bias(tensors, "ffn_gate", "ffn_up", "ffn_down"),
    }


# llama.cpp calls the MLP's norm by its name in transformers, though it stands before the MLP.
GGUF = GGUF(
    architecture="seed_oss",
    lacks=("blk.*.ffn_*.bias", "blk.*.attn_output.bias"),
    hf=gguf_hf,
    weights=renamed(llama_rules(), {"ffn_norm": "post_attention_norm"}),
)

TINY = llama.TINY | {"model_type": "seed_oss", "tie_word_embeddings": False, "head_dim": 16}
VARIANTS: dict[str, dict[str, Any]] = {
    "no_bias": {"attention_bias": False},
    "biases": {"attention_out_bias": True, "mlp_bias": True},
}
