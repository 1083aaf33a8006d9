"""Qwen3.5: gated DeltaNet in three layers of four, gated attention in the fourth, dense MLPs.

Source: Qwen Team 2026 (Qwen3.5); transformers models/qwen3_5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import MLPConfig, ModelConfig
from pellucid.families import llama, qwen3_next
from pellucid.families.translation.delta_net import DELTA_RULES, GATED_QUERY, SPLIT_CONV
from pellucid.families.translation.delta_net_gguf import (
    Tiled,
    delta_net_keys,
    delta_net_rules,
    delta_net_to_gguf,
)
from pellucid.families.translation.gguf import GGUF
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import Rule, with_offset, without
from pellucid.families.translation.text_part import in_one_place

# How often a layer attends, where layer_types say it; the heads that guess further tokens, which are not loaded.
HARMLESS = ("full_attention_interval", "linear_attention_interval", "mtp_*", "mlp_only_layers", "mamba_ssm_dtype")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(in_one_place(hf), HARMLESS)
    dense = MLPConfig(d_ff=keys.size("intermediate_size", 12288), activation=keys.activation("hidden_act", "silu"))
    return qwen3_next.build(keys, ((dense, None),) * keys.num_layers("num_hidden_layers"))


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return qwen3_next.base_to_hf(config) | {"architectures": ["Qwen3_5ForCausalLM"]}


AT, OURS = "model.layers.{i}.linear_attn", "layers.{i}.delta_net"
DELTA = (
    *DELTA_RULES,
    Rule(f"{AT}.in_proj_qkv.weight", tuple(f"{OURS}.{name}_proj.weight" for name in "qkv"), (SPLIT_CONV,)),
    *(
        Rule(f"{AT}.in_proj_{theirs}.weight", f"{OURS}.{ours}_proj.weight")
        for theirs, ours in (("z", "gate"), ("b", "beta"), ("a", "decay"))
    ),
)
WEIGHTS = (
    *with_offset((*without(llama.WEIGHTS, "self_attn.q_proj"), *qwen3_next.QK_NORMS), 1.0),
    *GATED_QUERY,
    *DELTA,
)
IGNORED = (*llama.IGNORED, "mtp.*")


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    return delta_net_keys("qwen35", metadata, tensors) | {"model_type": "qwen3_5_text"}


GGUF_RULES = (
    *delta_net_rules(tiled=True),
    Rule("blk.{i}.ssm_alpha.weight", f"{OURS}.decay_proj.weight", (Tiled(1),)),
    Rule("blk.{i}.ssm_beta.weight", f"{OURS}.beta_proj.weight", (Tiled(1),)),
)
GGUF = GGUF(architecture="qwen35", hf=gguf_hf, weights=GGUF_RULES, write=delta_net_to_gguf, for_others=False)

TINY = llama.TINY | qwen3_next.HYBRID | {"model_type": "qwen3_5_text"}
VARIANTS: dict[str, dict[str, Any]] = {
    name: qwen3_next.VARIANTS[name]
    for name in ("biases", "one_value_head_a_key", "narrow_convolution", "by_interval", "whole_rotary")
} | {"untied": {"tie_word_embeddings": False}}
