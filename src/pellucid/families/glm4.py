"""GLM-4-0414: GLM with a norm after each part too. Source: transformers models/glm4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig, NormConfig, PartNorms
from pellucid.families import glm
from pellucid.families.translation.gguf import GGUF, POST_NORM_RULES, common_keys, has_bias, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import SPLIT_GATE_UP, Rule, gate_up_names, without


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    norm = NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1.5625e-07))
    return glm.build(keys, norm=norm, norms=PartNorms(before=norm, after=norm))


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return glm.to_hf(config) | {"architectures": ["Glm4ForCausalLM"]}


WEIGHTS = (
    *glm.WEIGHTS,
    Rule("model.layers.{i}.post_self_attn_layernorm.weight", "layers.{i}.attention_post_norm.weight"),
    Rule("model.layers.{i}.post_mlp_layernorm.weight", "layers.{i}.mlp_post_norm.weight"),
)
IGNORED = glm.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    common = common_keys("glm4", metadata, tensors, partial_rotary=True)
    return common | {
        "partial_rotary_factor": common.pop("rope_dimension_count") / common["head_dim"],
        "attention_bias": has_bias(tensors, "attn_q", "attn_k", "attn_v"),
    }


GGUF = GGUF(
    architecture="glm4",
    hf=gguf_hf,
    weights=(
        *without(llama_rules(), "ffn_gate", "ffn_up"),
        Rule("blk.{i}.ffn_up.weight", gate_up_names("weight"), (SPLIT_GATE_UP,)),
        *POST_NORM_RULES,
    ),
)

TINY = glm.TINY | {"model_type": "glm4"}
VARIANTS = {name: glm.VARIANTS[name] for name in ("no_bias", "partial")}
