"""FlexOlmo: OLMo 2's shape, every MLP a mixture of a few wide experts. Source: Shi et al. 2025, *FlexOlmo* §2;
transformers models/flex_olmo.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig
from pellucid.families import llama, olmo2, olmoe
from pellucid.families.translation.experts import expert_rules, in_memory
from pellucid.families.translation.hf import Keys, rope


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    head_dim = keys.size("head_dim", max(keys.size("hidden_size") // keys.size("num_attention_heads"), 1))
    rotary = rope(keys, head_dim, keys.size("max_position_embeddings", 4096), default_theta=5e5)
    return olmo2.build(keys, eps=1e-6, rotary=rotary, mlps=olmoe.mlps(keys, num_experts=7, per_token=5))


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return olmoe.to_hf(config) | {"architectures": ["FlexOlmoForCausalLM"]}


WEIGHTS = (*olmo2.WEIGHTS, *expert_rules())
ALSO = in_memory(WEIGHTS, "mlp")
IGNORED = llama.IGNORED
GGUF = None

TINY = olmoe.TINY | {"model_type": "flex_olmo", "num_experts": 7, "num_experts_per_tok": 5, "pad_token_id": 0}
VARIANTS: dict[str, dict[str, Any]] = olmoe.VARIANTS
