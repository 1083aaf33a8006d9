"""Qwen3 (dense): Llama's shape with RMS norms on each head's q and k, and a head dimension of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig
from pellucid.families import llama
from pellucid.families.qwen2 import windows, windows_to_hf
from pellucid.families.translation.gguf import GGUF, common_keys, has_bias, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import Rule


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    bias = keys.switch("attention_bias", False)
    return llama.build(keys, qkv_bias=bias, o_bias=bias, qk_norm=True, head_dim=128, windows=windows(keys))


def to_hf(config: ModelConfig) -> dict[str, Any]:
    bias = config.layers[0].mixer.qkv_bias
    return (
        llama.base_to_hf(config)
        | windows_to_hf(config)
        | {"architectures": ["Qwen3ForCausalLM"], "attention_bias": bias}
    )


WEIGHTS = (
    *llama.WEIGHTS,
    Rule("model.layers.{i}.self_attn.q_norm.weight", "layers.{i}.attention.q_norm.weight"),
    Rule("model.layers.{i}.self_attn.k_norm.weight", "layers.{i}.attention.k_norm.weight"),
)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    biased = has_bias(tensors, "attn_q", "attn_k", "attn_v", "attn_output")
    return common_keys("qwen3", metadata, tensors) | {"attention_bias": biased}


GGUF = GGUF(architecture="qwen3", lacks=("blk.*.attn_*.bias",), hf=gguf_hf, weights=llama_rules())

TINY = llama.TINY | {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"attention_bias": True},
    "window": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "tied": {"tie_word_embeddings": True},
    "yarn": llama.VARIANTS["yarn"],
}
