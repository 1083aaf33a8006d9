"""IQuest-Coder: Llama's shape, with heads 128 wide where the file does not say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import ModelConfig
from pellucid.families import llama
from pellucid.families.translation.hf import Keys


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    keys.only("clip_qkv", None)
    keys.only("use_sliding_window", False)
    bias = keys.switch("attention_bias", False)
    return llama.build(
        keys, eps=1e-5, qkv_bias=bias, o_bias=bias, mlp_bias=keys.switch("mlp_bias", False), head_dim=128
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return llama.to_hf(config) | {"architectures": ["IQuestCoderForCausalLM"]}


WEIGHTS = llama.WEIGHTS
IGNORED = llama.IGNORED
GGUF = None

TINY = llama.TINY | {"model_type": "iquestcoder", "head_dim": 8, "tie_word_embeddings": False}
VARIANTS = {name: llama.VARIANTS[name] for name in ("biases", "yarn")}
