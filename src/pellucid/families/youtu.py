"""Youtu-LLM: DeepSeek-V3's latent attention in a dense decoder. Source: transformers models/youtu."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig
from pellucid.families import deepseek_v3, llama
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
GGUF = None

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
