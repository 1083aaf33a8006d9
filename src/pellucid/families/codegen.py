"""CodeGen: GPT-J with q, v and k of four blocks of heads in one matrix. Source: transformers models/codegen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig
from pellucid.families import gptj
from pellucid.families.translation.rules import Rule, SplitHeads, qkv_names, without

HARMLESS = gptj.HARMLESS


def config(hf: Mapping[str, Any]) -> ModelConfig:
    return gptj.config(hf)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return gptj.to_hf(config) | {"architectures": ["CodeGenForCausalLM"]}


WEIGHTS = (
    *without(gptj.WEIGHTS, "q_proj", "k_proj", "v_proj"),
    Rule("transformer.h.{i}.attn.qkv_proj.weight", qkv_names("weight"), (SplitHeads(4, (0, 2, 1)),)),
)
IGNORED = (*gptj.IGNORED, "*.attn.causal_mask")
GGUF = None

TINY = gptj.TINY | {"model_type": "codegen"}
VARIANTS = {name: gptj.VARIANTS[name] for name in ("narrow", "gelu")}
