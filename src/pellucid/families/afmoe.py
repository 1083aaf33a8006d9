"""Arcee's AFMoE (Trinity): attention with a gate on its result, norms about each part, sigmoids that a bias corrects.

Layers with a window turn, those that see all do not. Source: transformers models/afmoe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError
from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig, NormConfig, PartNorms
from pellucid.families import gemma3, llama
from pellucid.families.translation.experts import a_sparse_layer, expert_rules, in_memory, mlps_of, widths_to_hf
from pellucid.families.translation.gguf import (
    EXPERT_RULES,
    GGUF,
    POST_NORM_RULES,
    SHARED_EXPERT_RULES,
    common_keys,
    deepseek_keys,
    llama_rules,
)
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, rope
from pellucid.families.translation.rules import Rule, both, without

# Of training, and of groups that are one.
HARMLESS = ("intermediate_size", "load_balance_coeff", "use_grouped_mm", "num_expert_groups", "num_limited_groups")
ONLY = {"attention_bias": False, "score_func": "sigmoid", "route_norm": True, "n_group": 1, "topk_group": 1}


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    for name, value in ONLY.items():
        keys.only(name, value)
    norm, num_layers = NormConfig(eps=keys.get("rms_norm_eps", 1e-5), wide=True), keys.num_layers("num_hidden_layers")
    every = keys.size("global_attn_every_n_layers", 4)
    kinds, window = gemma3.layer_types(keys, every=every), keys.size("sliding_window", 1024)
    head_dim, dense = keys.size("head_dim", 128), keys.get("num_dense_layers", 1)
    rotary = rope(keys, head_dim, keys.size("max_position_embeddings", 16384))
    d_ff, together = keys.size("moe_intermediate_size", 1408), keys.get("num_shared_experts", 2)
    expert = MLPConfig(d_ff=d_ff, activation=keys.activation("hidden_act", "silu"))
    experts = ExpertsConfig(
        num_experts=keys.size("num_experts", 64),
        experts_per_token=keys.size("num_experts_per_tok", 6),
        scores="sigmoid",
        correction_bias=True,
        normalize_eps=1e-20,
        scale=float(keys.get("route_scale", 1.0)),
        shared=MLPConfig(d_ff=d_ff * together, activation=expert.activation) if together else None,
    )
    return llama.build(
        keys,
        norm=norm,
        norms=PartNorms(before=norm, after=norm),
        qk_norm=True,
        head_dim=head_dim,
        ropes=[rotary if kind == "sliding_attention" else None for kind in kinds],
        windows=[window if kind == "sliding_attention" else None for kind in kinds],
        attention={"gated": True},
        mlps=mlps_of(keys, expert, experts, [i >= dense for i in range(num_layers)]),
        embedding_scale=math.sqrt(keys.size("hidden_size")) if keys.get("mup_enabled", False) else 1.0,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer, experts = a_sparse_layer(config)
    windows = [one.mixer.window for one in config.layers]
    return (
        llama.base_to_hf(config)
        | widths_to_hf(config)
        | {
            "architectures": ["AfmoeForCausalLM"],
            "layer_types": ["sliding_attention" if window else "full_attention" for window in windows],
            "sliding_window": next((window for window in windows if window), 1024),
            "num_dense_layers": next(i for i, one in enumerate(config.layers) if one.experts),
            "num_experts": experts.num_experts,
            "num_experts_per_tok": experts.experts_per_token,
            "num_shared_experts": experts.shared.d_ff // layer.mlp.d_ff if experts.shared else 0,
            "route_scale": experts.scale,
            "mup_enabled": config.embedding_scale != 1,
        }
    )


WEIGHTS = (
    *without(llama.WEIGHTS, "post_attention_layernorm"),
    *(
        rule
        for theirs, ours in (
            ("self_attn.q_norm", "attention.q_norm"),
            ("self_attn.k_norm", "attention.k_norm"),
            ("self_attn.gate_proj", "attention.gate_proj"),
            ("post_attention_layernorm", "attention_post_norm"),
            ("pre_mlp_layernorm", "mlp_norm"),
            ("post_mlp_layernorm", "mlp_post_norm"),
        )
        for rule in both(f"model.layers.{{i}}.{theirs}", f"layers.{{i}}.{ours}")
    ),
    *expert_rules(router="router.gate", shared="shared_experts"),
    Rule("model.layers.{i}.mlp.expert_bias", "layers.{i}.mlp.correction_bias"),
)
ALSO = in_memory(WEIGHTS, "mlp")
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    """Three layers with a window, which turn, then one that sees all; and the embeddings scaled: llama.cpp computes
    these whatever the file says.
    """
    common, routed = common_keys("afmoe", metadata, tensors), deepseek_keys("afmoe", metadata, tensors, gating=2)
    kinds = ["full_attention" if (i + 1) % 4 == 0 else "sliding_attention" for i in range(common["num_hidden_layers"])]
    said = metadata.get("afmoe.attention.sliding_window_pattern")
    if said is not None and np.ndim(said) and [bool(near) for near in said] != [k[0] == "s" for k in kinds]:
        raise UnsupportedError("afmoe.attention.sliding_window_pattern: every fourth layer sees all", where="GGUF")
    return common | {
        "num_experts": routed["n_routed_experts"],
        "num_experts_per_tok": routed["num_experts_per_tok"],
        "num_shared_experts": routed["n_shared_experts"],
        "moe_intermediate_size": routed["moe_intermediate_size"],
        "num_dense_layers": routed["first_k_dense_replace"],
        "route_norm": routed["norm_topk_prob"],
        "route_scale": routed["routed_scaling_factor"],
        "sliding_window": metadata.needed("afmoe.attention.sliding_window"),
        "layer_types": kinds,
        "mup_enabled": True,
    }


GGUF = GGUF(
    architecture="afmoe",
    hf=gguf_hf,
    weights=(
        *llama_rules(),
        *POST_NORM_RULES,
        Rule("blk.{i}.attn_gate.weight", "layers.{i}.attention.gate_proj.weight"),
        *EXPERT_RULES,
        *SHARED_EXPERT_RULES,
    ),
    write=lambda config: {"embedding_scale": None},  # it is the root of the width there
    experts=True,
    for_others=False,
)

TINY = llama.TINY | {
    "model_type": "afmoe",
    "tie_word_embeddings": False,
    "head_dim": 8,
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "sliding_window": 8,
    "num_dense_layers": 1,
    "moe_intermediate_size": 24,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_shared_experts": 1,
    "route_scale": 2.5,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "mup": {"mup_enabled": True, "num_shared_experts": 2},
    "silent": {"layer_types": None, "num_hidden_layers": 4, "num_dense_layers": 2},
    "tied": {"tie_word_embeddings": True},
}
