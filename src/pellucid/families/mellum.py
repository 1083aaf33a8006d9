"""Mellum 2 (JetBrains): Qwen3-MoE's layers, some with a window, each kind with a rotation of its own.

Source: transformers models/mellum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.errors import ConfigError
from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig
from pellucid.families import gemma3, llama, olmo3, qwen3_moe
from pellucid.families.translation.experts import HARMLESS, mlps_of, sparse_after
from pellucid.families.translation.hf import Keys, rope

DEFAULT = {
    "full_attention": {"rope_type": "default", "rope_theta": 500000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, (*HARMLESS, "mtp_*"))
    bias, num_layers = keys.switch("attention_bias", False), keys.num_layers("num_hidden_layers")
    kinds, window = _kinds(keys, num_layers), keys.size("sliding_window", 1024)
    head_dim, context_len = keys.size("head_dim", 128), keys.size("max_position_embeddings", 131072)
    said = keys.get("rope_parameters", DEFAULT)
    if not isinstance(said, Mapping):
        raise ConfigError("rope_parameters must be an object", where=keys.where, received=repr(said)[:80])
    ropes = {
        kind: rope(Keys({"rope_parameters": said.get(kind) or DEFAULT[kind]}, where=keys.where), head_dim, context_len)
        for kind in DEFAULT
    }
    expert = MLPConfig(d_ff=keys.size("moe_intermediate_size", 896), activation=keys.activation("hidden_act", "silu"))
    experts = ExpertsConfig(
        num_experts=keys.size("num_experts", keys.size("num_local_experts", 64)),
        experts_per_token=keys.size("num_experts_per_tok", 8),
        normalize=keys.switch("norm_topk_prob", True),
    )
    return llama.build(
        keys,
        qkv_bias=bias,
        o_bias=bias,
        qk_norm=True,
        head_dim=head_dim,
        ropes=[ropes[kind] for kind in kinds],
        windows=[window if kind == "sliding_attention" else None for kind in kinds],
        mlps=mlps_of(keys, expert, experts, sparse_after(keys, 0)),
    )


def _kinds(keys: Keys, num_layers: int) -> list[str]:
    kinds = keys.get("layer_types") or ["full_attention"] * num_layers
    return gemma3.layer_types(Keys({"num_hidden_layers": num_layers, "layer_types": kinds}, where=keys.where), every=1)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    written = olmo3.to_hf(config) | qwen3_moe.mlps_to_hf(config)
    del written["decoder_sparse_step"], written["mlp_only_layers"]
    return written | {
        "architectures": ["MellumForCausalLM"],
        "attention_bias": config.layers[0].mixer.qkv_bias,
        "mlp_layer_types": ["sparse" if one.experts else "dense" for one in config.layers],
    }


WEIGHTS = qwen3_moe.WEIGHTS
ALSO = qwen3_moe.ALSO
IGNORED = (*llama.IGNORED, "mtp.*")
GGUF = None

TINY = llama.TINY | {
    "model_type": "mellum",
    "tie_word_embeddings": False,
    "head_dim": 8,
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "sliding_window": 8,
    "moe_intermediate_size": 24,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "rope_parameters": DEFAULT,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "kinds": {"mlp_layer_types": ["dense", "sparse", "sparse"], "norm_topk_prob": False},
    "all_full": {"layer_types": None, "attention_bias": True},
    "tied": {"tie_word_embeddings": True},
}
