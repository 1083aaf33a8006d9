"""OLMo: Llama's shape with norms that have no weights; q, k and v may be clipped.

Source: Groeneveld et al. 2024 §2.1; transformers models/olmo.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.config import ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, common_keys, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import without


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    bias = keys.switch("attention_bias", False)
    norm, clip = NormConfig(kind="layer", eps=1e-5, weight=False), keys.get("clip_qkv")
    return llama.build(keys, qkv_bias=bias, o_bias=bias, norm=norm, attention={"clip": clip})


def to_hf(config: ModelConfig) -> dict[str, Any]:
    attention, hf = config.layers[0].mixer, llama.base_to_hf(config)
    del hf["rms_norm_eps"], hf["head_dim"]
    return hf | {
        "architectures": ["OlmoForCausalLM"],
        "attention_bias": attention.qkv_bias,
        "clip_qkv": attention.clip,
    }


WEIGHTS = without(llama.WEIGHTS, "norm")
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    clip = metadata.scalar("olmo.attention.clamp_kqv")
    metadata.expect("olmo.attention.layer_norm_epsilon", float(np.float32(1e-5)), "OLMo has no other epsilon")
    hf = common_keys("olmo", metadata, tensors, eps="layer_norm_epsilon")
    del hf["rms_norm_eps"]
    return hf | ({"clip_qkv": clip} if clip else {})


GGUF = GGUF(
    architecture="olmo",
    hf=gguf_hf,
    weights=without(llama_rules(q=(llama.Q_ROWS,), k=(llama.K_ROWS,)), "norm"),
)

TINY = {name: value for name, value in llama.TINY.items() if name != "rms_norm_eps"} | {
    "model_type": "olmo",
    "tie_word_embeddings": False,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "clipped": {"clip_qkv": 0.5},
    "bias": {"attention_bias": True},
    "tied": {"tie_word_embeddings": True},
}
