"""Granite 3 (dense): Llama's shape with a number for embeddings, attention's scores, what parts add, and logits.

Source: IBM Granite Team 2024, *Granite 3.0 Language Models* §2; transformers models/granite.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import LayerConfig, ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys


def config(hf: Mapping[str, Any]) -> ModelConfig:
    return build(Keys(hf))


def build(keys: Keys, *, sinks: bool = False, eps: float = 1e-6, **more: Any) -> ModelConfig:
    """Granite's shape; ``more`` is for ``llama.build``."""
    attention_bias = keys.switch("attention_bias", False)
    return llama.build(
        keys,
        norm=NormConfig(kind="rms", eps=keys.get("rms_norm_eps", eps)),
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=keys.switch("mlp_bias", False),
        attention={"scale": keys.get("attention_multiplier", 1.0), "sinks": sinks},
        layer={"residual_scale": keys.get("residual_multiplier", 1.0)},
        embedding_scale=keys.get("embedding_multiplier", 1.0),
        logit_scale=1 / keys.get("logits_scaling", 1.0),
        **more,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    scales = scales_to_hf(config, config.layers[0])
    return llama.to_hf(config) | {"architectures": ["GraniteForCausalLM"]} | scales


def scales_to_hf(config: ModelConfig, layer: LayerConfig) -> dict[str, Any]:
    """The numbers, of a layer that attends."""
    return {
        "attention_multiplier": layer.attention.scale if layer.attention else 1.0,
        "residual_multiplier": layer.residual_scale,
        "embedding_multiplier": config.embedding_scale,
        "logits_scaling": float(f"{1 / config.logit_scale:.12g}"),
    }


WEIGHTS = llama.WEIGHTS
IGNORED = llama.IGNORED


def gguf_hf(
    metadata: Metadata, tensors: Mapping[str, Array], architecture: str = "granite", kv_heads: int | None = None
) -> dict[str, Any]:
    common = llama.gguf_hf(metadata, tensors, architecture, kv_heads)
    scale = metadata.scalar(f"{architecture}.attention.scale", 0.0) or common["head_dim"] ** -0.5
    return common | {
        "attention_multiplier": scale,
        "residual_multiplier": metadata.scalar(f"{architecture}.residual_scale", 0.0) or 1.0,
        "embedding_multiplier": metadata.scalar(f"{architecture}.embedding_scale", 0.0) or 1.0,
        "logits_scaling": metadata.needed(f"{architecture}.logit_scale") or 1.0,
    }


GGUF = GGUF(
    architecture="granite",
    hf=gguf_hf,
    weights=llama_rules(q=(llama.Q_ROWS,), k=(llama.K_ROWS,)),
    ignored=("rope_freqs.weight",),
    write=lambda config: {"logit_scale": 1 / config.logit_scale},  # llama.cpp divides by it
)

TINY = llama.TINY | {
    "model_type": "granite",
    "attention_multiplier": 0.25,
    "residual_multiplier": 0.5,
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"attention_bias": True, "mlp_bias": True},
    "untied": {"tie_word_embeddings": False},
    "odd": {"residual_multiplier": 0.22, "embedding_multiplier": 12.0, "attention_multiplier": 0.3},
}
