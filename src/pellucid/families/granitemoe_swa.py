"""Granite MoE with windows, sinks and each layer's own θ. Source: transformers models/granitemoe_swa."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig
from pellucid.families import granite, granite_swa, granitemoe, granitemoeshared, llama
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import without


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    return granite.build(keys, sinks=True, mlps=granitemoe.mlps(keys), **granite_swa.by_layer(keys))


def to_hf(config: ModelConfig) -> dict[str, Any]:
    written = granite.to_hf(config) | granitemoe.experts_to_hf(config) | granite_swa.by_layer_to_hf(config)
    return written | {"architectures": ["GraniteMoeSWAForCausalLM"]}


WEIGHTS = (*without(llama.WEIGHTS, ".mlp."), *granitemoeshared.SHARED, *granitemoe.ALSO, granite_swa.SINKS)
ALSO = tuple(rule for rule in granitemoe.WEIGHTS if "block_sparse_moe" in rule.theirs)
IGNORED = granite_swa.IGNORED
GGUF = None

TINY = granitemoeshared.TINY | granite_swa.WINDOWS | {"model_type": "granitemoe_swa"}
VARIANTS: dict[str, dict[str, Any]] = granitemoeshared.VARIANTS
