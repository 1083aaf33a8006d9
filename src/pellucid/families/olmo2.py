"""OLMo 2: Llama's shape with a norm after each part and none before, and one over all queries and all keys.

γ multiplies in float32. Source: OLMo Team 2024, *2 OLMo 2 Furious* §3.2; transformers models/olmo2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig, NormConfig, PartNorms
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, POST_NORM_RULES, common_keys, has_bias, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import both, without


def config(hf: Mapping[str, Any]) -> ModelConfig:
    return build(Keys(hf))


def build(keys: Keys, eps: float = 1e-5, **by_layer: Any) -> ModelConfig:
    """OLMo 2's shape; 3's layers have windows and rotations of their own."""
    norm = NormConfig(kind="rms", eps=keys.get("rms_norm_eps", eps), wide=True)
    bias = keys.switch("attention_bias", False)
    return llama.build(
        keys,
        qkv_bias=bias,
        o_bias=bias,
        norm=norm,
        norms=PartNorms(after=norm),
        qk_norm=True,
        attention={"qk_norm_over": "all"},
        **by_layer,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    bias = config.layers[0].mixer.qkv_bias
    return llama.base_to_hf(config) | {"architectures": ["Olmo2ForCausalLM"], "attention_bias": bias}


WEIGHTS = (
    *without(llama.WEIGHTS, "input_layernorm", "post_attention_layernorm"),
    *both("model.layers.{i}.self_attn.q_norm", "layers.{i}.attention.q_norm"),
    *both("model.layers.{i}.self_attn.k_norm", "layers.{i}.attention.k_norm"),
    *both("model.layers.{i}.post_attention_layernorm", "layers.{i}.attention_post_norm"),
    *both("model.layers.{i}.post_feedforward_layernorm", "layers.{i}.mlp_post_norm"),
)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    biased = has_bias(tensors, "attn_q", "attn_k", "attn_v", "attn_output")
    return common_keys("olmo2", metadata, tensors) | {"attention_bias": biased}


GGUF = GGUF(
    architecture="olmo2",
    square=True,
    lacks=("blk.*.attn_*.bias",),
    needs=("output.weight",),
    hf=gguf_hf,
    weights=(*llama_rules(), *POST_NORM_RULES),
)

TINY = llama.TINY | {"model_type": "olmo2", "tie_word_embeddings": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "bias": {"attention_bias": True},
    "tied": {"tie_word_embeddings": True},
    "wide_heads": {"head_dim": 16},
}
