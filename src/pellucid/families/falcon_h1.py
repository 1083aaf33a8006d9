"""Falcon-H1: attention and Mamba-2 side by side in every layer, and a number for nearly every map (muP).

Source: Zuo et al. 2025 (*Falcon-H1*) §2; transformers models/falcon_h1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.base.array import Array
from pellucid.config import Mamba2Config, MLPConfig, ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, common_keys, has_bias, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.mamba import (
    PREFIXED_HARMLESS,
    gguf_mamba2_rules,
    mamba2_keys,
    mamba2_rules,
    prefixed_mamba2,
    prefixed_to_hf,
    ssm_keys,
)
from pellucid.families.translation.rules import renamed

HARMLESS = (*PREFIXED_HARMLESS, "mlp_expansion_factor", "attn_layer_indices", "num_logits_to_keep", "mamba_expand")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    norm, bias = NormConfig(eps=keys.get("rms_norm_eps", 1e-5)), keys.switch("attention_bias", False)
    gate, down = _numbers(keys, "mlp_multipliers", 2)
    mlp = MLPConfig(
        d_ff=keys.size("intermediate_size"),
        activation=keys.activation("hidden_act", "silu"),
        bias=keys.switch("mlp_bias", False),
        gate_scale=gate,
        down_scale=down,
    )
    return llama.build(
        keys,
        norm=norm,
        qkv_bias=bias,
        o_bias=bias,
        mlps=((mlp, None),) * keys.num_layers("num_hidden_layers"),
        attention={
            "in_scale": float(keys.get("attention_in_multiplier", 1.0)),
            "k_scale": float(keys.get("key_multiplier", 1.0)),
            "out_scale": float(keys.get("attention_out_multiplier", 1.0)),
        },
        layer={"beside": _mamba2(keys, norm.eps)},
        embedding_scale=float(keys.get("embedding_multiplier", 1.0)),
        logit_scale=float(keys.get("lm_head_multiplier", 1.0)),
    )


def _mamba2(keys: Keys, eps: float) -> Mamba2Config:
    before = keys.switch("mamba_norm_before_gate", True)
    mamba2 = prefixed_mamba2(
        keys,
        eps,
        keys.get("mamba_d_ssm"),
        o_bias=keys.switch("projectors_bias", False),
        norm_at="before" if before else "after",
        in_scale=float(keys.get("ssm_in_multiplier", 1.0)),
        scales=_numbers(keys, "ssm_multipliers", 5),
        out_scale=float(keys.get("ssm_out_multiplier", 1.0)),
    )
    return mamba2 if keys.get("mamba_rms_norm", False) else replace(mamba2, norm=None, norm_at="after")


def _numbers(keys: Keys, name: str, count: int) -> tuple[float, ...]:
    return tuple(map(float, keys.get(name, (1.0,) * count)))


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer = config.layers[0]
    attention, mlp, mamba2 = layer.mixer, layer.mlp, layer.beside
    return (
        {name: value for name, value in prefixed_to_hf(config).items() if name != "mamba_expand"}  # see mamba_d_ssm
        | llama.base_to_hf(config)
        | {
            "architectures": ["FalconH1ForCausalLM"],
            "attention_bias": attention.qkv_bias,
            "mlp_bias": mlp.bias,
            "mlp_multipliers": [mlp.gate_scale, mlp.down_scale],
            "attention_in_multiplier": attention.in_scale,
            "key_multiplier": attention.k_scale,
            "attention_out_multiplier": attention.out_scale,
            "mamba_d_ssm": mamba2.channels,
            "mamba_rms_norm": mamba2.norm is not None,
            "mamba_norm_before_gate": mamba2.norm_at == "before",
            "projectors_bias": mamba2.o_bias,
            "ssm_in_multiplier": mamba2.in_scale,
            "ssm_multipliers": list(mamba2.scales),
            "ssm_out_multiplier": mamba2.out_scale,
            "embedding_multiplier": config.embedding_scale,
            "lm_head_multiplier": config.logit_scale,
        }
    )


WEIGHTS = (
    *renamed(
        llama.WEIGHTS,
        {
            "post_attention_layernorm": "pre_ff_layernorm",
            ".mlp.": ".feed_forward.",
            "model.norm.": "model.final_layernorm.",
        },
    ),
    *mamba2_rules("model.layers.{i}.mamba"),
)
IGNORED = (*llama.IGNORED, "*.mup_vector")


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    """llama.cpp's converter multiplies each number into its map: here all are 1."""
    sizes = ssm_keys("falcon-h1", metadata)
    return (
        common_keys("falcon-h1", metadata, tensors)
        | {name: value for name, value in mamba2_keys("falcon-h1", metadata, tensors).items() if name != "mamba_expand"}
        | {
            "model_type": "falcon_h1",
            "attention_bias": has_bias(tensors, "attn_q", "attn_k", "attn_v", "attn_output"),
            "mlp_bias": has_bias(tensors, "ffn_gate", "ffn_up", "ffn_down"),
            "mamba_d_ssm": sizes["inner_size"],
            "mamba_rms_norm": "blk.0.ssm_norm.weight" in tensors,
            "mamba_norm_before_gate": False,  # as llama.cpp computes it
            **dict.fromkeys(MULTIPLIERS, 1.0),
            "mlp_multipliers": [1.0] * 2,
            "ssm_multipliers": [1.0] * 5,
        }
    )


MULTIPLIERS = (
    *("attention_in_multiplier", "key_multiplier", "attention_out_multiplier", "ssm_in_multiplier"),
    *("ssm_out_multiplier", "embedding_multiplier", "lm_head_multiplier"),
)
GGUF = GGUF(
    architecture="falcon-h1",
    lacks=("blk.*.ssm_in.bias", "blk.*.ssm_out.bias", "blk.*.attn_output.bias"),
    needs=("blk.*.ssm_conv1d.bias",),
    hf=gguf_hf,
    weights=(
        *renamed(llama_rules(), {"ffn_norm.weight": "ffn_norm"}),  # a name without its end, of this one alone
        *gguf_mamba2_rules(),
    ),
    for_others=False,
)

TINY = llama.TINY | {
    "model_type": "falcon_h1",
    "tie_word_embeddings": False,
    "mamba_d_ssm": 48,
    "mamba_n_heads": 6,
    "mamba_d_head": 8,
    "mamba_d_state": 6,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 8,
    "embedding_multiplier": 3.0,
    "lm_head_multiplier": 0.25,
    "mlp_multipliers": [0.8, 0.4],
    "key_multiplier": 0.6,
    "attention_in_multiplier": 0.9,
    "attention_out_multiplier": 0.7,
    "ssm_in_multiplier": 1.25,
    "ssm_multipliers": [0.35, 0.25, 0.18, 0.5, 0.31],
    "ssm_out_multiplier": 0.24,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "unscaled": {**dict.fromkeys(MULTIPLIERS, 1.0), "mlp_multipliers": [1.0] * 2, "ssm_multipliers": [1.0] * 5},
    "biases": {"attention_bias": True, "mlp_bias": True, "mamba_proj_bias": True, "projectors_bias": True},
    "no_conv_bias": {"mamba_conv_bias": False},
    "normed": {"mamba_rms_norm": True, "mamba_norm_before_gate": False},
    "normed_before": {"mamba_rms_norm": True},
    "tied": {"tie_word_embeddings": True},
}
