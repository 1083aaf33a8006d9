"""Arcee (AFM): Llama's shape with an MLP without a gate and relu²."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    attention_bias = keys.switch("attention_bias", False)
    return llama.build(
        keys,
        eps=1e-5,
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=keys.switch("mlp_bias", False),
        gated=False,
        activation=keys.activation("hidden_act", "relu2"),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return llama.to_hf(config) | {"architectures": ["ArceeForCausalLM"]}


WEIGHTS = llama.WEIGHTS
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    return llama.gguf_hf(metadata, tensors, "arcee") | {"hidden_act": "relu2"}


GGUF = GGUF(
    architecture="arcee",
    lacks=("*.bias",),
    hf=gguf_hf,
    weights=llama_rules(q=(llama.Q_ROWS,), k=(llama.K_ROWS,)),
    ignored=("rope_freqs.weight",),
)

TINY = llama.TINY | {"model_type": "arcee", "hidden_act": "relu2"}
VARIANTS = {name: llama.VARIANTS[name] for name in ("biases", "untied", "wide_heads", "yarn")}
