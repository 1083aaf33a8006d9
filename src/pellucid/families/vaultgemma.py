"""VaultGemma: Gemma 2 without its norms after each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.config import ModelConfig, PartNorms
from pellucid.families import gemma2
from pellucid.families.translation.rules import without

HARMLESS = gemma2.HARMLESS


def config(hf: Mapping[str, Any]) -> ModelConfig:
    model = gemma2.config(hf)
    norms = PartNorms(before=model.final_norm)
    layers = tuple(replace(layer, mixer_norms=norms, mlp_norms=norms) for layer in model.layers)
    return replace(model, layers=layers)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return gemma2.to_hf(config) | {"architectures": ["VaultGemmaForCausalLM"]}


WEIGHTS = without(gemma2.WEIGHTS, "post_attention_layernorm", "post_feedforward_layernorm")
IGNORED = gemma2.IGNORED
GGUF = None

TINY = gemma2.TINY | {"model_type": "vaultgemma"}
VARIANTS = gemma2.VARIANTS
