"""K-EXAONE: EXAONE 4's attention with norms before the parts, mixtures of experts routed as DeepSeek-V3's.

Source: transformers models/exaone_moe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.config import ModelConfig, NormConfig
from pellucid.families import exaone4, glm4_moe, llama
from pellucid.families.translation.experts import (
    HARMLESS,
    deepseek_experts,
    deepseek_to_hf,
    expert_rules,
    in_memory,
    mlps_of,
    sparse_after,
)
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
from pellucid.families.translation.rules import Rule, without


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(exaone4.in_numbers(hf), HARMLESS)
    expert = deepseek_experts(
        keys, count="num_experts", num_experts=64, shared="num_shared_experts", width=1024, scale=2.5
    )
    return llama.build(
        keys,
        norm=NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-5)),
        qk_norm=True,
        mlps=mlps_of(keys, *expert, sparse_after(keys, 1)),
        **exaone4.by_layer(keys),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    kinds = ["sparse" if layer.experts else "dense" for layer in config.layers]
    written = exaone4.to_hf(config) | deepseek_to_hf(config, count="num_experts", shared="num_shared_experts")
    return written | {"architectures": ["ExaoneMoeForCausalLM"], "mlp_layer_types": kinds}


WEIGHTS = (
    *without(glm4_moe.WEIGHTS, ".gate.", ".experts.", "shared_experts"),
    *expert_rules(shared="shared_experts", correction="e_score_correction_bias"),
)
ALSO = (
    *in_memory(WEIGHTS, "mlp"),
    Rule("model.layers.{i}.mlp.gate.e_score_correction_bias", "layers.{i}.mlp.correction_bias"),
)
IGNORED = (*llama.IGNORED, "mtp.*")


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    common = common_keys("exaone-moe", metadata, tensors)
    routed = deepseek_keys("exaone-moe", metadata, tensors)
    metadata.scalar("exaone-moe.expert_shared_feed_forward_length")  # the width of all that are shared, together
    window = metadata.scalar("exaone-moe.attention.sliding_window", 0)
    pattern = metadata.get("exaone-moe.attention.sliding_window_pattern")
    kinds = (
        [bool(near) for near in pattern][: common["num_hidden_layers"]]
        if isinstance(pattern, list | np.ndarray)
        else None
    )
    return common | {
        "model_type": "exaone_moe",
        "num_experts": routed.pop("n_routed_experts"),
        "num_shared_experts": routed.pop("n_shared_experts"),
        **routed,
        "sliding_window": window or None,
        "layer_types": kinds and ["sliding_attention" if near else "full_attention" for near in kinds],
    }


GGUF = GGUF(
    architecture="exaone-moe",
    needs=("output.weight",),
    hf=gguf_hf,
    weights=(*llama_rules(), *EXPERT_RULES, *SHARED_EXPERT_RULES),
    ignored=("rope_freqs.weight",),
    experts=True,
)

TINY = exaone4.TINY | {
    "model_type": "exaone_moe",
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "num_experts": 8,
    "num_shared_experts": 1,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "letters": {"sliding_window_pattern": 3, "layer_types": None},
    "mlp_types": {"mlp_layer_types": ["sparse", "dense", "sparse"], "routed_scaling_factor": 1.0},
    "groups": {"n_group": 4, "topk_group": 2, "num_shared_experts": 2},
    "unnormalized": {"norm_topk_prob": False},
    "tied": {"tie_word_embeddings": True},
}
