"""Youtu-LLM: DeepSeek-V3's latent attention in a dense decoder. Source: transformers models/youtu."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig
from pellucid.families import deepseek_v3, llama
from pellucid.families.translation import gguf_latent
from pellucid.families.translation.gguf import GGUF
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.latent import LATENT_RULES
from pellucid.families.translation.rules import without

HARMLESS = ("embedding_initializer_range",)
DEFAULTS = deepseek_v3.DEFAULTS | {"max_position_embeddings": 131072}
_EXPERTS = ("n_group", "topk_group", "routed_scaling_factor")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys({**{name: value for name, value in DEFAULTS.items() if name not in _EXPERTS}, **hf}, HARMLESS)
    keys.only("mlp_bias", False)
    return deepseek_v3.build(keys, tied=True)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return deepseek_v3.base_to_hf(config) | {"architectures": ["YoutuForCausalLM"]}


WEIGHTS = (*without(llama.WEIGHTS, "self_attn"), *LATENT_RULES)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    for name in (
        "leading_dense_block_count",
        "expert_feed_forward_length",
        "expert_shared_count",
        "expert_weights_scale",
    ):
        metadata.scalar(f"deepseek2.{name}")  # read: llama.cpp asks for them, though there are no experts
    return gguf_latent.latent_keys("deepseek2", metadata, tensors, scaled=True) | {"model_type": "youtu"}


GGUF = GGUF(
    architecture="deepseek2",
    hf=gguf_hf,
    weights=(*gguf_latent.LATENT_RULES, *gguf_latent.APART),
    also=gguf_latent.JOINED,
    write=gguf_latent.deepseek_to_gguf,
)

TINY = llama.TINY | {
    "model_type": "youtu",
    **{
        name: deepseek_v3.TINY[name]
        for name in ("num_key_value_heads", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim")
    },
    "v_head_dim": 12,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "untied": {"tie_word_embeddings": False},
    "plain_queries": {"q_lora_rank": None},
    "biases": {"attention_bias": True, "rope_interleave": False},
    "yarn": {"rope_scaling": deepseek_v3.VARIANTS["yarn_mscale"]["rope_scaling"]},
}
