"""Qwen3-Next: gated DeltaNet in three layers of four, gated attention in the fourth; many experts and a shared one.

Source: Qwen Team 2025 (Qwen3-Next); transformers models/qwen3_next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pellucid.base.array import Array
from pellucid.config import DeltaNetConfig, ExpertsConfig, MLPConfig, ModelConfig, NormConfig
from pellucid.families import llama, qwen2_moe, qwen3_moe
from pellucid.families.translation.delta_net import (
    DELTA_RULES,
    GATED_QUERY,
    delta_net,
    delta_net_to_hf,
    kinds,
)
from pellucid.families.translation.delta_net_gguf import delta_net_keys, delta_net_rules, delta_net_to_gguf
from pellucid.families.translation.experts import in_memory
from pellucid.families.translation.gguf import EXPERT_RULES, GGUF, SHARED_EXPERT_RULES, expert_width, experts_keys
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, partial_rotary_to_hf, rope
from pellucid.families.translation.rules import Rule, SplitBlocks, with_offset, without

HARMLESS = ("intermediate_size", "full_attention_interval", "linear_attention_interval")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    shared = MLPConfig(
        d_ff=keys.size("shared_expert_intermediate_size", 512), activation=keys.activation("hidden_act", "silu")
    )
    experts = ExpertsConfig(
        num_experts=keys.size("num_experts", keys.size("num_local_experts", 512)),
        experts_per_token=keys.size("num_experts_per_tok", 10),
        normalize=keys.switch("norm_topk_prob", True),
        shared=shared,
        shared_gated=True,
    )
    return build(keys, qwen3_moe.mlps(keys, experts))


def build(keys: Keys, mlps: Sequence[tuple[MLPConfig, ExpertsConfig | None]], **fields: Any) -> ModelConfig:
    """A decoder of layers that attend, gated, among layers of gated DeltaNet."""
    num_layers, head_dim = keys.num_layers("num_hidden_layers"), keys.size("head_dim", 256)
    norm = NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-6), offset=keys.get("norm_weight_offset", 1.0))
    mixer = delta_net(keys, norm=replace(norm, offset=0.0))
    bias = keys.switch("attention_bias", False)
    return llama.build(
        keys,
        norm=norm,
        qk_norm=True,
        qkv_bias=bias,
        o_bias=bias,
        head_dim=head_dim,
        rotary=rope(keys, head_dim, keys.size("max_position_embeddings", 32768), partial=0.25),
        mixers=[mixer if kind == "linear_attention" else None for kind in kinds(keys, num_layers)],
        attention={"gated": True},
        mlps=tuple(mlps),
        **fields,
    )


def base_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The keys that say which layers attend, and how the others do not."""
    attention = next(layer.attention for layer in config.layers if layer.attention)
    mixer = next(layer.mixer for layer in config.layers if isinstance(layer.mixer, DeltaNetConfig))
    assert attention.rope
    rotary = partial_rotary_to_hf(attention.head_dim, attention.rope.dim)
    return (
        llama.base_to_hf(config)
        | delta_net_to_hf(mixer)
        | {
            "attention_bias": attention.qkv_bias,
            "partial_rotary_factor": rotary,
            "layer_types": ["full_attention" if layer.attention else "linear_attention" for layer in config.layers],
        }
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    shared = next(layer.experts.shared for layer in config.layers if layer.experts and layer.experts.shared)
    own = {"architectures": ["Qwen3NextForCausalLM"], "shared_expert_intermediate_size": shared.d_ff}
    return base_to_hf(config) | qwen3_moe.mlps_to_hf(config) | own


def _of_keys(mixer: DeltaNetConfig) -> tuple[int, ...]:
    """Rows of q, k, v and z of one head of keys."""
    values = mixer.num_heads // mixer.num_key_heads * mixer.value_head_dim
    return mixer.key_head_dim, mixer.key_head_dim, values, values


AT = "model.layers.{i}.linear_attn"
QKVZ = SplitBlocks(lambda layer: layer.mixer.num_key_heads, lambda layer: _of_keys(layer.mixer))
BA = SplitBlocks(
    lambda layer: layer.mixer.num_key_heads, lambda layer: (layer.mixer.num_heads // layer.mixer.num_key_heads,) * 2
)
QK_NORMS = tuple(
    Rule(f"model.layers.{{i}}.self_attn.{x}_norm.weight", f"layers.{{i}}.attention.{x}_norm.weight") for x in "qk"
)
WEIGHTS = (
    *with_offset((*without(qwen2_moe.WEIGHTS, "self_attn.q_proj"), *QK_NORMS), 1.0),
    *GATED_QUERY,
    *DELTA_RULES,
    Rule(
        f"{AT}.in_proj_qkvz.weight",
        tuple(f"layers.{{i}}.delta_net.{name}_proj.weight" for name in ("q", "k", "v", "gate")),
        (QKVZ,),
    ),
    Rule(
        f"{AT}.in_proj_ba.weight",
        tuple(f"layers.{{i}}.delta_net.{name}_proj.weight" for name in ("beta", "decay")),
        (BA,),
    ),
)
ALSO = in_memory(WEIGHTS, "mlp")
IGNORED = (*llama.IGNORED, "mtp.*")


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    return (
        delta_net_keys("qwen3next", metadata, tensors)
        | experts_keys("qwen3next", metadata, normalize=True)
        | {
            "model_type": "qwen3_next",
            "norm_topk_prob": True,
            "moe_intermediate_size": expert_width("qwen3next", metadata, tensors),
            "shared_expert_intermediate_size": metadata.needed("qwen3next.expert_shared_feed_forward_length"),
        }
    )


GGUF = GGUF(
    architecture="qwen3next",
    hf=gguf_hf,
    write=delta_net_to_gguf,
    for_others=False,
    weights=(
        *delta_net_rules(tiled=False),
        Rule(
            "blk.{i}.ssm_ba.weight", tuple(f"layers.{{i}}.delta_net.{x}_proj.weight" for x in ("beta", "decay")), (BA,)
        ),
        *EXPERT_RULES,
        *SHARED_EXPERT_RULES,
    ),
    experts=True,
)

HYBRID = {
    "rms_norm_eps": 1e-4,  # of small heads, too: what is near 0 is not divided by itself
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 6,
    "linear_conv_kernel_dim": 4,
}
TINY = qwen2_moe.TINY | HYBRID | {"model_type": "qwen3_next", "norm_topk_prob": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"attention_bias": True},
    "dense_layer": {"mlp_only_layers": [1]},
    "unnormalized": {"norm_topk_prob": False},
    "one_value_head_a_key": {"linear_num_value_heads": 2},
    "narrow_convolution": {"linear_conv_kernel_dim": 2},
    "by_interval": {"layer_types": None, "full_attention_interval": 2},
    "whole_rotary": {"partial_rotary_factor": 1.0},
    "tied": {"tie_word_embeddings": True},
}
