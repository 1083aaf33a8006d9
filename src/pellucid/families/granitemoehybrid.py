"""Granite 4: Granite's scales, Mamba-2 in most layers, every MLP a mixture of experts with a shared one, or dense.

Source: IBM Granite Team 2025, *Granite 4.0*; transformers models/granitemoehybrid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import Mamba2Config, MLPConfig, ModelConfig
from pellucid.families import granite, granitemoe, granitemoeshared, llama
from pellucid.families.translation.experts import ByLayer
from pellucid.families.translation.gguf import (
    EXPERT_RULES,
    GGUF,
    SHARED_EXPERT_RULES,
    expert_width,
    experts_keys,
    heads_by_layer,
)
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, rope
from pellucid.families.translation.mamba import (
    PREFIXED_HARMLESS,
    gguf_mamba2_rules,
    mamba2_keys,
    mamba2_rules,
    prefixed_mamba2,
    prefixed_to_hf,
)
from pellucid.families.translation.rules import SPLIT_GATE_UP, Rule, gate_up_names

HARMLESS = (*PREFIXED_HARMLESS, "init_method", "normalization_function", "logits_*_dtype")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    count, context_len = keys.num_layers("num_hidden_layers"), keys.size("max_position_embeddings", 2048)
    keys.only("mlp_bias", False)
    keys.only("position_embedding_type", "nope", "rope")
    turned = rope(keys, max(keys.size("hidden_size") // keys.size("num_attention_heads"), 1), context_len)
    turned = turned if keys.get("position_embedding_type") == "rope" else None
    mamba2 = prefixed_mamba2(keys, keys.get("rms_norm_eps", 1e-6))
    return granite.build(
        keys,
        mlps=granitemoe.mlps(keys) if keys.get("num_local_experts", 8) else _dense(keys, count),
        mixers=_mixers(keys, count, mamba2),
        ropes=(turned,) * count,
    )


def _mixers(keys: Keys, count: int, mamba2: Mamba2Config) -> list[Mamba2Config | None]:
    """Each layer's, None where it attends; where nothing is said, none does."""
    kinds = {"mamba": mamba2, "linear_attention": mamba2, "attention": None, "full_attention": None}
    return [mamba2] * count if keys.get("layer_types") is None else keys.choices("layer_types", count, **kinds)


def _dense(keys: Keys, count: int) -> ByLayer:
    """Without experts the shared one is an MLP like any other."""
    for of_experts_that_there_are_not in ("num_experts_per_tok", "intermediate_size"):
        keys.get(of_experts_that_there_are_not)
    activation = keys.activation("hidden_act", "silu")
    return ((MLPConfig(d_ff=keys.size("shared_intermediate_size", 1024), activation=activation), None),) * count


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer = next((layer for layer in config.layers if layer.attention), config.layers[0])
    written = {
        "architectures": ["GraniteMoeHybridForCausalLM"],
        "layer_types": ["full_attention" if layer.attention else "linear_attention" for layer in config.layers],
        "position_embedding_type": "rope" if config.ropes else "nope",
    }
    if layer.attention:
        written |= {"attention_bias": layer.attention.qkv_bias}
    if layer.experts:
        written |= granitemoe.experts_to_hf(config)
    else:
        written |= {"num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": layer.mlp.d_ff}
    return llama.base_to_hf(config) | prefixed_to_hf(config) | granite.scales_to_hf(config, layer) | written


_SHARED = "model.layers.{i}.shared_mlp"
WEIGHTS = (
    *granitemoeshared.WEIGHTS,
    Rule(f"{_SHARED}.input_linear.weight", gate_up_names("weight"), (SPLIT_GATE_UP,)),
    Rule(f"{_SHARED}.output_linear.weight", "layers.{i}.mlp.down_proj.weight"),
    *mamba2_rules("model.layers.{i}.mamba"),
)
ALSO = granitemoeshared.ALSO
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    """llama.cpp says which layers attend by their heads of keys and values; whether they turn, by a word about what
    their scaling was trained with.
    """
    heads, own = heads_by_layer("granitehybrid", metadata), "granitehybrid"
    common = granite.gguf_hf(metadata, tensors, own, kv_heads=max(heads) or 1)
    shared = metadata.scalar(f"{own}.expert_shared_feed_forward_length", 0)
    if metadata.scalar(f"{own}.expert_count", 0):
        routed = experts_keys(own, metadata, normalize=True)
        widths = {"intermediate_size": expert_width(own, metadata, tensors), "shared_intermediate_size": shared}
        common |= widths | {"num_local_experts": routed["num_experts"]}
        common |= {"num_experts_per_tok": routed["num_experts_per_tok"]}
    else:
        common |= {"num_local_experts": 0, "num_experts_per_tok": 0}
        common |= {"shared_intermediate_size": common["intermediate_size"]}
    return (
        {name: value for name, value in common.items() if name not in ("mlp_bias", "head_dim")}
        | mamba2_keys(own, metadata, tensors)
        | {
            "model_type": "granitemoehybrid",
            "layer_types": ["full_attention" if count else "linear_attention" for count in heads],
            "position_embedding_type": "rope" if metadata.scalar(f"{own}.rope.scaling.finetuned", False) else "nope",
        }
    )


def gguf_keys(config: ModelConfig) -> dict[str, Any]:
    turned = {
        "rope.scaling.finetuned": bool(config.ropes),
        "rope.dimension_count": None if config.ropes else _head(config),
    }
    return {"logit_scale": 1 / config.logit_scale, **turned, "vocab_size": config.vocab_size}


def _head(config: ModelConfig) -> int | None:
    return next((layer.attention.head_dim for layer in config.layers if layer.attention), None)


GGUF = GGUF(
    architecture="granitehybrid",
    experts=None,
    lacks=("blk.*.ssm_in.bias", "blk.*.ssm_out.bias"),
    needs=("blk.*.ssm_conv1d.bias",),
    hf=gguf_hf,
    weights=(*granite.GGUF.weights, *EXPERT_RULES, *SHARED_EXPERT_RULES, *gguf_mamba2_rules()),
    ignored=("rope_freqs.weight",),
    write=gguf_keys,
    for_others=False,
)

TINY = granitemoeshared.TINY | {
    "model_type": "granitemoehybrid",
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 6,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 8,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"attention_bias": True, "mamba_proj_bias": True},
    "no_conv_bias": {"mamba_conv_bias": False},
    "rope": {"position_embedding_type": "rope"},
    "dense": {"num_local_experts": 0, "num_experts_per_tok": 0},
    "untied": {"tie_word_embeddings": False},
}
