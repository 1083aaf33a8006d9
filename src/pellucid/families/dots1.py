"""dots.llm1: Qwen3's attention, and after dense layers mixtures of experts routed as DeepSeek-V3's.

Source: rednote-hilab 2025, *dots.llm1 Technical Report* §2; transformers models/dots1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig
from pellucid.families import glm4_moe, llama, qwen2
from pellucid.families.translation.experts import HARMLESS, deepseek_experts, deepseek_to_hf, mlps_of, sparse_after
from pellucid.families.translation.gguf import (
    EXPERT_RULES,
    GGUF,
    SHARED_EXPERT_RULES,
    common_keys,
    deepseek_keys,
    llama_rules,
)
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys


def config(hf: Mapping[str, Any]) -> ModelConfig:
    types = hf.get("layer_types") or ()
    above = hf.get("sliding_window", 4096) is not None and hf.get("max_window_layers", 62) < hf["num_hidden_layers"]
    keys = Keys({**hf, "use_sliding_window": "sliding_attention" in types if types else above}, HARMLESS)
    bias = keys.switch("attention_bias", False)
    mlps = mlps_of(keys, *deepseek_experts(keys, width=1408, normalize=False), sparse_after(keys, 0))
    keys.only("moe_layer_freq", 1)
    return llama.build(keys, qkv_bias=bias, o_bias=bias, qk_norm=True, windows=qwen2.windows(keys), mlps=mlps)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    windows = qwen2.windows_to_hf(config)
    del windows["use_sliding_window"]
    return (
        llama.base_to_hf(config)
        | windows
        | deepseek_to_hf(config)
        | {"architectures": ["Dots1ForCausalLM"], "attention_bias": config.layers[0].mixer.qkv_bias}
    )


WEIGHTS = glm4_moe.WEIGHTS
ALSO = glm4_moe.ALSO
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    routed = deepseek_keys("dots1", metadata, tensors)
    return common_keys("dots1", metadata, tensors) | routed | {"sliding_window": None}


GGUF = GGUF(
    architecture="dots1",
    needs=("output.weight",),
    grouped=False,
    hf=gguf_hf,
    weights=(*llama_rules(), *EXPERT_RULES, *SHARED_EXPERT_RULES),
    experts=True,
)

TINY = llama.TINY | {
    "model_type": "dots1",
    "tie_word_embeddings": False,
    "num_hidden_layers": 3,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "sliding_window": None,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "window": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "upper_windows": {"sliding_window": 8, "max_window_layers": 1},
    "groups": {"n_group": 4, "topk_group": 2, "attention_bias": True},
    "unnormalized": {"norm_topk_prob": False, "first_k_dense_replace": 0},
    "tied": {"tie_word_embeddings": True},
}
