"""Command A with mixtures of experts: Command R7B's shape, the first layers dense, attention and mixture side by side.

The routed and the shared experts are added, or averaged: half of each. Source: transformers models/cohere2_moe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.base.errors import ConfigError
from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig, NormConfig, PartNorms
from pellucid.families import cohere, cohere2, gemma3, llama
from pellucid.families.translation.experts import a_sparse_layer, expert_rules, in_memory, sparse_after
from pellucid.families.translation.hf import Keys, rope
from pellucid.families.translation.rules import without

NEAR = "sliding_attention"


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, cohere2.HARMLESS)
    keys.only("use_qk_norm", False)
    sparse, first = sparse_after(keys, 0), keys.get("first_k_dense_replace", 0)
    prefix = keys.size("prefix_dense_sliding_window_pattern", 1)
    if not isinstance(first, int) or not 0 <= first < len(sparse):
        raise ConfigError("first_k_dense_replace is out of range", where=keys.where, received=repr(first))
    if keys.get("layer_types") is None and first:  # the pattern begins anew after the dense layers
        rest = gemma3.layer_types(Keys({**hf, "num_hidden_layers": len(sparse) - first}), every=4)
        kinds = [NEAR if (i + 1) % prefix else "full_attention" for i in range(first)] + rest
        keys.get("sliding_window_pattern")
    else:
        kinds = gemma3.layer_types(keys, every=4)
    eps, bias = keys.get("rms_norm_eps"), keys.switch("attention_bias", False)
    layer_norm = NormConfig(kind="layer", eps=keys.get("layer_norm_eps", 1e-5))
    norm = layer_norm if eps is None else NormConfig(kind="rms", eps=eps)
    head_dim, window = keys.size("head_dim", 128), keys.size("sliding_window", 4096)
    rotary = rope(keys, head_dim, keys.size("max_position_embeddings", 8192), layout="interleaved")
    turns = [kind == NEAR or (prefix == 1 and not here) for kind, here in zip(kinds, sparse, strict=True)]
    expert, experts = _experts(keys)
    dense = MLPConfig(d_ff=keys.size("prefix_dense_intermediate_size", expert.d_ff), activation=expert.activation)
    return llama.build(
        keys,
        qkv_bias=bias,
        o_bias=bias,
        norm=norm,
        norms=(PartNorms(before=norm), PartNorms()),
        head_dim=head_dim,
        ropes=[rotary if here else None for here in turns],
        windows=[window if kind == NEAR else None for kind in kinds],
        mlps=tuple((expert, experts) if here else (dense, None) for here in sparse),
        layer={"parallel": True},
        logit_scale=keys.get("logit_scale", 0.0625),
        tied=True,
    )


def _experts(keys: Keys) -> tuple[MLPConfig, ExpertsConfig]:
    keys.only("expert_selection_fn", "softmax", "sigmoid")
    keys.only("shared_expert_combination_strategy", "average", "sum")
    scores, together = keys.get("expert_selection_fn", "softmax"), keys.get("num_shared_experts", 0)
    expert = MLPConfig(d_ff=keys.size("intermediate_size"), activation=keys.activation("hidden_act", "silu"))
    averaged = together and keys.get("shared_expert_combination_strategy", "average") == "average"
    part = 0.5 if averaged else 1.0
    return expert, ExpertsConfig(
        num_experts=keys.size("num_experts", 8),
        experts_per_token=keys.size("num_experts_per_tok", 2),
        scores=scores,
        normalize=keys.switch("norm_topk_prob", True) or scores == "softmax",  # a softmax is of the chosen alone
        scale=part,
        shared=replace(expert, d_ff=expert.d_ff * together, down_scale=part) if together else None,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer, experts = a_sparse_layer(config)
    norm, windows = config.final_norm, [one.mixer.window for one in config.layers]
    dense = next((one for one in config.layers if not one.experts), None)
    assert norm
    return cohere.to_hf(config) | {
        "architectures": ["Cohere2MoeForCausalLM"],
        "rms_norm_eps": norm.eps if norm.kind == "rms" else None,
        "intermediate_size": layer.mlp.d_ff,
        "prefix_dense_intermediate_size": dense.mlp.d_ff if dense else None,
        "prefix_dense_sliding_window_pattern": 1 if dense is None or dense.mixer.rope else 2,
        "sliding_window": next((window for window in windows if window), config.context_len),
        "layer_types": [NEAR if window else "full_attention" for window in windows],
        "mlp_layer_types": ["sparse" if one.experts else "dense" for one in config.layers],
        "first_k_dense_replace": 0,
        "num_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "expert_selection_fn": experts.scores,
        "norm_topk_prob": experts.normalize,
        "num_shared_experts": experts.shared.d_ff // layer.mlp.d_ff if experts.shared else 0,
        "shared_expert_combination_strategy": "average" if experts.scale == 0.5 else "sum",
    }


WEIGHTS = (*without(llama.WEIGHTS, "post_attention_layernorm"), *expert_rules(shared="shared_experts"))
ALSO = in_memory(WEIGHTS, "mlp")
IGNORED = llama.IGNORED
GGUF = None

TINY = cohere2.TINY | {
    "model_type": "cohere2_moe",
    "num_hidden_layers": 3,
    "head_dim": 8,
    "intermediate_size": 24,
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "prefix_dense_intermediate_size": 48,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_shared_experts": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "sum": {"shared_expert_combination_strategy": "sum", "expert_selection_fn": "sigmoid", "attention_bias": True},
    "unnormalized": {"expert_selection_fn": "sigmoid", "norm_topk_prob": False, "num_shared_experts": 0},
    "rms": {"rms_norm_eps": 1e-6, "prefix_dense_sliding_window_pattern": 2},
    "silent": {"layer_types": None, "mlp_layer_types": None, "first_k_dense_replace": 1, "sliding_window_pattern": 2},
}
