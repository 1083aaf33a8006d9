"""Jamba: Mamba in most layers, attention without positions in some, mixtures of experts in every other.

Source: Lieber et al. 2024 (*Jamba*) §2–3; transformers models/jamba.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError, UnsupportedError
from pellucid.config import ExpertsConfig, MambaConfig, MLPConfig, ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.experts import expert_rules, fused
from pellucid.families.translation.gguf import (
    EXPERT_RULES,
    GGUF,
    common_keys,
    experts_keys,
    has_bias,
    heads_by_layer,
    llama_rules,
)
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.mamba import expansion, gguf_mamba_rules, mamba_rules, ssm_keys
from pellucid.families.translation.rules import renamed

HARMLESS = (
    "use_mambapy",
    "use_associative_scan",
    "use_mamba_kernels",
    "calc_logits_for_entire_prompt",
    "mamba_inner_*",
)


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    norm, num_layers = NormConfig(eps=keys.get("rms_norm_eps", 1e-6)), keys.num_layers("num_hidden_layers")
    keys.only("sliding_window", None)
    keys.only("attention_bias", False)
    attends, sparse = _every(keys, "attn_layer", 8, 4, num_layers), _every(keys, "expert_layer", 2, 1, num_layers)
    expert = MLPConfig(d_ff=keys.size("intermediate_size"), activation=keys.activation("hidden_act", "silu"))
    count, per_token = keys.size("num_experts", keys.size("num_local_experts", 16)), keys.size("num_experts_per_tok", 2)
    mlps: list[tuple[MLPConfig, ExpertsConfig | None]] = [(expert, None)] * num_layers
    if count > 1:
        experts = ExpertsConfig(num_experts=count, experts_per_token=per_token, normalize=False)
        mlps = [(expert, experts if here else None) for here in sparse]
    mamba = _mamba(keys, norm)
    return llama.build(
        keys,
        norm=norm,
        ropes=(None,) * num_layers,
        mixers=[None if here else mamba for here in attends],
        mlps=tuple(mlps),
    )


def _every(keys: Keys, name: str, period: int, offset: int, count: int) -> list[bool]:
    """One layer in so many, the first of them at an offset."""
    period, first = keys.size(f"{name}_period", period), keys.get(f"{name}_offset", offset)
    if not isinstance(first, int) or not 0 <= first < period:
        raise ConfigError(
            f"{name}_offset must be below its period", where=keys.where, expected=f"0 to {period - 1}", received=first
        )
    return [i % period == first for i in range(count)]


def _mamba(keys: Keys, norm: NormConfig) -> MambaConfig:
    d_model, rank = keys.size("hidden_size"), keys.get("mamba_dt_rank", "auto")
    return MambaConfig(
        channels=int(keys.get("mamba_expand", 2) * d_model),
        state_size=keys.size("mamba_d_state", 16),
        dt_rank=math.ceil(d_model / 16) if rank == "auto" else keys.size("mamba_dt_rank"),
        width=keys.size("mamba_d_conv", 4),
        conv_bias=keys.switch("mamba_conv_bias", True),
        bias=keys.switch("mamba_proj_bias", False),
        activation=keys.activation("hidden_act", "silu"),
        inner_norm=norm,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    mixer = next(layer.mixer for layer in config.layers if isinstance(layer.mixer, MambaConfig))
    experts = next((layer.experts for layer in config.layers if layer.experts), None)
    attends = [i for i, layer in enumerate(config.layers) if layer.attention]
    sparse = [i for i, layer in enumerate(config.layers) if layer.experts]
    return llama.base_to_hf(config) | {
        "architectures": ["JambaForCausalLM"],
        "num_experts": experts.num_experts if experts else 1,
        "num_experts_per_tok": experts.experts_per_token if experts else 1,
        **_period_to_hf("attn_layer", attends, config.num_layers),
        **_period_to_hf("expert_layer", sparse, config.num_layers),
        "mamba_d_state": mixer.state_size,
        "mamba_d_conv": mixer.width,
        "mamba_expand": expansion(mixer.channels, config.d_model),
        "mamba_dt_rank": mixer.dt_rank,
        "mamba_conv_bias": mixer.conv_bias,
        "mamba_proj_bias": mixer.bias,
    }


def _period_to_hf(name: str, layers: list[int], count: int) -> dict[str, int]:
    first = layers[0] if layers else count
    return {f"{name}_period": layers[1] - first if len(layers) > 1 else count + 1, f"{name}_offset": first}


WEIGHTS = (
    *renamed(
        llama.WEIGHTS,
        {
            "post_attention_layernorm": "pre_ff_layernorm",
            ".mlp.": ".feed_forward.",
            "model.norm.": "model.final_layernorm.",
        },
    ),
    *expert_rules("model.layers.{i}.feed_forward", router="router"),
    *mamba_rules("model.layers.{i}.mamba", dt_low="dt_layernorm", b="b_layernorm", c="c_layernorm"),
)
ALSO = fused("model.layers.{i}.feed_forward.experts")
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    heads, sizes = heads_by_layer("jamba", metadata), ssm_keys("jamba", metadata)
    common = common_keys("jamba", metadata, tensors, kv_heads=max(heads) or 1)
    routed = experts_keys("jamba", metadata, normalize=False) if metadata.scalar("jamba.expert_count", 0) else {}
    count, d_model = len(heads), common["hidden_size"]
    attends = [i for i in range(count) if heads[i]]
    sparse = [i for i in range(count) if f"blk.{i}.ffn_gate_inp.weight" in tensors]
    return (
        {name: value for name, value in common.items() if name not in ("rope_theta", "rope_scaling")}
        | {"num_experts": routed.get("num_experts", 1), "num_experts_per_tok": routed.get("num_experts_per_tok", 1)}
        | _period_to_hf("attn_layer", attends, count)
        | _period_to_hf("expert_layer", sparse, count)
        | {
            "mamba_d_state": sizes["state_size"],
            "mamba_d_conv": sizes["conv_kernel"],
            "mamba_expand": expansion(sizes["inner_size"], d_model),
            "mamba_dt_rank": sizes["time_step_rank"],
            "mamba_conv_bias": has_bias(tensors, "ssm_conv1d"),
            "mamba_proj_bias": has_bias(tensors, "ssm_in", "ssm_out"),
        }
    )


def gguf_keys(config: ModelConfig) -> dict[str, Any]:
    wide = next((mixer.channels for mixer in config.mixers if isinstance(mixer, MambaConfig)), 2 * config.d_model)
    if wide != 2 * config.d_model:
        raise UnsupportedError("llama.cpp's jamba has mixers twice as wide as the model", where="GGUF", received=wide)
    return {}


GGUF = GGUF(
    architecture="jamba",
    experts=None,
    write=gguf_keys,
    lacks=("blk.*.ssm_in.bias", "blk.*.ssm_out.bias"),
    needs=("blk.*.ssm_conv1d.bias",),
    hf=gguf_hf,
    weights=(*llama_rules(), *EXPERT_RULES, *gguf_mamba_rules()),
    for_others=False,
)

TINY = llama.TINY | {
    "model_type": "jamba",
    "num_hidden_layers": 4,
    "tie_word_embeddings": False,
    "attn_layer_period": 3,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "mamba_d_state": 6,
    "mamba_dt_rank": 5,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"mamba_proj_bias": True},
    "no_conv_bias": {"mamba_conv_bias": False},
    "dense": {"num_experts": 1},
    "tied": {"tie_word_embeddings": True, "mamba_dt_rank": "auto", "mamba_expand": 3},
}
