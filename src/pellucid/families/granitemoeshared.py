"""Granite 3 MoE with one expert that every token goes through. Source: transformers models/granitemoeshared."""

from __future__ import annotations

from typing import Any

from pellucid.config import ModelConfig
from pellucid.families import granitemoe
from pellucid.families.translation.rules import SPLIT_SHARED, Rule

config = granitemoe.config


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return granitemoe.to_hf(config) | {"architectures": ["GraniteMoeSharedForCausalLM"]}


SHARED = (
    Rule(
        "model.layers.{i}.shared_mlp.input_linear.weight",
        ("layers.{i}.mlp.shared.gate_proj.weight", "layers.{i}.mlp.shared.up_proj.weight"),
        (SPLIT_SHARED,),
    ),
    Rule("model.layers.{i}.shared_mlp.output_linear.weight", "layers.{i}.mlp.shared.down_proj.weight"),
)
WEIGHTS = (*granitemoe.WEIGHTS, *SHARED)
ALSO = granitemoe.ALSO
IGNORED = granitemoe.IGNORED
GGUF = None

TINY = granitemoe.TINY | {"model_type": "granitemoeshared", "shared_intermediate_size": 40}
VARIANTS: dict[str, dict[str, Any]] = granitemoe.VARIANTS | {"none_shared": {"shared_intermediate_size": 0}}
