"""HyperCLOVA X SEED: Granite's shape with a norm after each part too; ``logits_scaling`` multiplies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig, NormConfig, PartNorms
from pellucid.families import granite, llama
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import both


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    norm, post = NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-6)), keys.get("use_post_norm", True)
    attention_bias = keys.switch("attention_bias", False)
    return llama.build(
        keys,
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=keys.switch("mlp_bias", False),
        norm=norm,
        norms=PartNorms(before=norm, after=norm if post else None),
        attention={"scale": keys.get("attention_multiplier")},
        layer={"residual_scale": keys.get("residual_multiplier", 1.0)},
        embedding_scale=keys.get("embedding_multiplier", 1.0),
        logit_scale=keys.get("logits_scaling", 1.0),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return granite.to_hf(config) | {
        "architectures": ["HyperCLOVAXForCausalLM"],
        "logits_scaling": config.logit_scale,
        "use_post_norm": config.layers[0].mixer_norms.after is not None,
    }


WEIGHTS = (
    *llama.WEIGHTS,
    *both("model.layers.{i}.post_norm1", "layers.{i}.attention_post_norm"),
    *both("model.layers.{i}.post_norm2", "layers.{i}.mlp_post_norm"),
)
IGNORED = llama.IGNORED
GGUF = None

TINY = llama.TINY | {
    "model_type": "hyperclovax",
    "tie_word_embeddings": False,
    "attention_multiplier": 0.25,
    "embedding_multiplier": 3.0,
    "logits_scaling": 0.25,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "no_post_norm": {"use_post_norm": False, "residual_multiplier": 0.5},
    "plain": {"attention_multiplier": None, "embedding_multiplier": 1.0, "logits_scaling": 1.0},
}
