"""Gemma: Llama's shape with GELU gates, embeddings scaled by √d_model, and norms whose γ is 1 + the weight.

Source: Gemma Team 2024, *Gemma* §2; transformers models/gemma.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, common_keys, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import with_offset

HARMLESS = ("hidden_activation",)  # a name that one version of transformers wrote beside hidden_act


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    keys.only("use_bidirectional_attention", False)
    keys.only("hidden_act", "gelu_pytorch_tanh", "gelu")  # the first files say gelu and mean this one
    bias = keys.switch("attention_bias", False)
    return llama.build(
        keys,
        qkv_bias=bias,
        o_bias=bias,
        activation="gelu_tanh",
        norm=NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-6), offset=keys.get("norm_weight_offset", 1.0)),
        head_dim=256,
        embedding_scale=math.sqrt(keys.size("hidden_size")),
        tied=True,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    bias = config.layers[0].mixer.qkv_bias
    return llama.base_to_hf(config) | {"architectures": ["GemmaForCausalLM"], "attention_bias": bias}


WEIGHTS = with_offset(llama.WEIGHTS, 1.0)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    return common_keys("gemma", metadata, tensors) | {"norm_weight_offset": 0.0}  # the converter adds the 1


GGUF = GGUF(architecture="gemma", lacks=("output.weight",), hf=gguf_hf, weights=with_offset(llama_rules(), 0.0))

TINY = llama.TINY | {"model_type": "gemma", "hidden_act": "gelu_pytorch_tanh", "head_dim": 16}
VARIANTS: dict[str, dict[str, Any]] = {
    "bias": {"attention_bias": True},
    "untied": {"tie_word_embeddings": False},
    "multi_query": {"num_key_value_heads": 1},
}
