"""Hunyuan-A13B and -Large's kin: Hunyuan's attention, every MLP a mixture of experts and one for all tokens.

Source: transformers models/hunyuan_v1_moe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError
from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig, NormConfig
from pellucid.families import hunyuan_v1_dense, llama
from pellucid.families.translation.experts import a_sparse_layer, expert_rules, in_memory
from pellucid.families.translation.gguf import (
    EXPERT_RULES,
    GGUF,
    SHARED_EXPERT_RULES,
    common_keys,
    expert_width,
    experts_keys,
    has_bias,
    llama_rules,
)
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys

HARMLESS = (
    *(pattern for pattern in hunyuan_v1_dense.HARMLESS if pattern not in ("moe_*", "num_shared_expert")),
    *("moe_drop_tokens", "moe_random_routing_dropped_token", "num_experts_per_tok", "add_classification_head"),
    *("dense_list", "im_newline_id", "mask_init_id", "pad_id"),
)


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = hunyuan_v1_dense.read(hf, HARMLESS)
    num_layers, d_ff = keys.num_layers("num_hidden_layers"), keys.size("intermediate_size", 11008)
    for name, value in (("moe_intermediate_size", d_ff), ("num_shared_expert", 1), ("moe_layer_num_skipped", 0)):
        by_layer(keys, name, value, only=True)
    keys.only("norm_topk_prob", True)
    keys.only("use_mla", False)
    keys.only("group_limited_greedy", False)
    counts, chosen = by_layer(keys, "num_experts", 1), by_layer(keys, "moe_topk", 1)
    mlp = MLPConfig(d_ff=d_ff, activation=keys.activation("hidden_act", "silu"))
    experts = [
        ExpertsConfig(num_experts=count, experts_per_token=top, wide=True, shared=mlp)
        for count, top in zip(counts, chosen, strict=True)
    ]
    return hunyuan_v1_dense.build(
        keys,
        norm=NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-5)),
        mlps=tuple((mlp, one) for one in experts[:num_layers]),
    )


def by_layer(keys: Keys, name: str, default: int, only: bool = False) -> list[Any]:
    """A number for each layer, from a list of them or one for all; ``only``: it can be the default alone."""
    num_layers, value = keys.num_layers("num_hidden_layers"), keys.get(name, default)
    values = value if isinstance(value, list) else [value] * num_layers
    if len(values) != num_layers or not all(type(one) is int for one in values) or (only and set(values) != {default}):
        expected = f"{default} for each of {num_layers} layers" if only else f"a number for each of {num_layers} layers"
        raise UnsupportedError(f"{name} = {value!r} is not implemented"[:200], where=keys.where, expected=expected)
    return values


def to_hf(config: ModelConfig) -> dict[str, Any]:
    a_sparse_layer(config)
    experts = [layer.experts for layer in config.layers if layer.experts]
    counts, chosen = [one.num_experts for one in experts], [one.experts_per_token for one in experts]
    written = llama.base_to_hf(config) | {
        "architectures": ["HunYuanMoEV1ForCausalLM"],
        "attention_bias": config.layers[0].mixer.qkv_bias,
    }
    return written | {
        "num_experts": counts[0] if len(set(counts)) == 1 else counts,
        "moe_topk": chosen[0] if len(set(chosen)) == 1 else chosen,
    }


WEIGHTS = (*hunyuan_v1_dense.WEIGHTS, *expert_rules(router="gate.wg", shared="shared_mlp"))
ALSO = in_memory(WEIGHTS, "mlp")
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    routed = experts_keys("hunyuan-moe", metadata, normalize=True)
    metadata.expect(
        "hunyuan-moe.expert_shared_count", 1, "one expert that every token goes through, as wide as another"
    )
    width = expert_width("hunyuan-moe", metadata, tensors)
    metadata.expect(
        "hunyuan-moe.expert_shared_feed_forward_length", width, "experts of another width than the shared one"
    )
    return common_keys("hunyuan-moe", metadata, tensors) | {
        "model_type": "hunyuan_v1_moe",
        "intermediate_size": width,
        "num_experts": routed["num_experts"],
        "moe_topk": routed["num_experts_per_tok"],
        "attention_bias": has_bias(tensors, "attn_q", "attn_k", "attn_v", "attn_output"),
    }


GGUF = GGUF(
    architecture="hunyuan-moe",
    lacks=("blk.*.attn_*.bias",),
    hf=gguf_hf,
    weights=(*llama_rules(), *EXPERT_RULES, *SHARED_EXPERT_RULES),
    experts=True,
)

TINY = hunyuan_v1_dense.TINY | {
    "model_type": "hunyuan_v1_moe",
    "tie_word_embeddings": False,
    "intermediate_size": 24,
    "num_experts": 8,
    "moe_topk": 3,
}
VARIANTS: dict[str, dict[str, Any]] = hunyuan_v1_dense.VARIANTS | {
    "by_layer": {"moe_topk": [1, 2]},
    "tied": {"tie_word_embeddings": True},
}
