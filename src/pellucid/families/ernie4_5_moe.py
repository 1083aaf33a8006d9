"""ERNIE 4.5 MoE: ERNIE 4.5's shape, and after dense layers mixtures whose softmax is corrected before it chooses.

Source: Baidu 2025, *ERNIE 4.5 Technical Report* §2; transformers models/ernie4_5_moe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError
from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.experts import (
    Flat,
    a_sparse_layer,
    expert_rules,
    fused,
    widths_to_hf,
)
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
from pellucid.families.translation.hf import Keys, rope
from pellucid.families.translation.rules import Rule

# Of training and of how experts are spread over devices; heads that guess further tokens.
HARMLESS = ("moe_capacity", "moe_gate", "moe_group", "num_nextn_predict_layers", "intermediate_size")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    keys.only("moe_use_aux_free", True)
    keys.only("compression_ratio", 1)
    if (least := keys.get("moe_norm_min", 1e-12)) > 1e-9:
        raise UnsupportedError(f"moe_norm_min = {least!r} is not implemented", where=keys.where)
    bias, d_ff = keys.switch("use_bias", False), keys.size("moe_intermediate_size", 1536)
    expert, together = (
        MLPConfig(d_ff=d_ff, activation=keys.activation("hidden_act", "silu")),
        keys.get("moe_num_shared_experts", 2),
    )
    experts = ExpertsConfig(
        num_experts=keys.size("moe_num_experts", 64),
        experts_per_token=keys.size("moe_k", 6),
        correction_bias=True,
        normalize_eps=float(least),
        wide=True,
        shared=replace(expert, d_ff=d_ff * together, bias=bias) if together else None,
    )
    num_layers, every = keys.num_layers("num_hidden_layers"), keys.size("moe_layer_interval", 1)
    first, last = keys.get("moe_layer_start_index", 1), keys.get("moe_layer_end_index", -1)
    last = num_layers - 1 if last == -1 else last
    sparse = [(i + 1) % every == 0 and first <= i <= last for i in range(num_layers)]
    dense = expert if all(sparse) else replace(expert, d_ff=keys.size("intermediate_size", 12288), bias=bias)
    head_dim = keys.size("head_dim", max(keys.size("hidden_size") // keys.size("num_attention_heads"), 1))
    context_len = keys.size("max_position_embeddings", 131072)
    return llama.build(
        keys,
        qkv_bias=bias,
        o_bias=bias,
        norm=NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-5)),
        rotary=rope(keys, head_dim, context_len, default_theta=5e5, layout="interleaved"),
        mlps=tuple((expert, experts) if here else (dense, None) for here in sparse),
        tied=True,
        head_bias=bias,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer, experts = a_sparse_layer(config)
    sparse = [i for i, one in enumerate(config.layers) if one.experts]
    return (
        llama.base_to_hf(config)
        | widths_to_hf(config)
        | {
            "architectures": ["Ernie4_5_MoeForCausalLM"],
            "use_bias": layer.mixer.qkv_bias,
            "moe_num_experts": experts.num_experts,
            "moe_k": experts.experts_per_token,
            "moe_num_shared_experts": experts.shared.d_ff // layer.mlp.d_ff if experts.shared else 0,
            "moe_norm_min": experts.normalize_eps,
            "moe_layer_start_index": sparse[0],
            "moe_layer_end_index": sparse[-1],
            "moe_layer_interval": sparse[1] - sparse[0] if len(sparse) > 1 else sparse[0] + 1,
        }
    )


WEIGHTS = (
    *llama.WEIGHTS,
    *expert_rules(shared="shared_experts"),
    Rule("model.layers.{i}.mlp.moe_statics.e_score_correction_bias", "layers.{i}.mlp.correction_bias", (Flat(),)),
    *(
        Rule(f"model.layers.{{i}}.mlp.shared_experts.{name}.bias", f"layers.{{i}}.mlp.shared.{name}.bias")
        for name in ("gate_proj", "up_proj", "down_proj")
    ),
)
ALSO = (
    *fused(),
    Rule("model.layers.{i}.mlp.gate.moe_statics.e_score_correction_bias", "layers.{i}.mlp.correction_bias", (Flat(),)),
)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    architecture = "ernie4_5-moe"
    routed, width = experts_keys(architecture, metadata, normalize=True), expert_width(architecture, metadata, tensors)
    metadata.expect(f"{architecture}.expert_gating_func", 1, "its experts are chosen by a softmax")
    metadata.scalar(
        f"{architecture}.expert_shared_feed_forward_length"
    )  # by a formula that is right for one size alone
    return common_keys(architecture, metadata, tensors) | {
        "model_type": "ernie4_5_moe",
        "moe_num_experts": routed["num_experts"],
        "moe_k": routed["num_experts_per_tok"],
        "moe_intermediate_size": width,
        "moe_num_shared_experts": metadata.scalar(f"{architecture}.expert_shared_count", 0),
        "moe_layer_start_index": metadata.scalar(f"{architecture}.leading_dense_block_count", 0),
        "moe_layer_interval": metadata.scalar(f"{architecture}.interleave_moe_layer_step", 1) or 1,
        "use_bias": has_bias(tensors, "attn_q", "attn_output"),
    }


def _own_keys(config: ModelConfig) -> dict[str, Any]:
    sparse = [bool(layer.experts) for layer in config.layers]
    if sparse != sorted(sparse):
        raise UnsupportedError("llama.cpp's ernie4_5-moe has dense layers in front alone", where="GGUF")
    return {}


GGUF = GGUF(
    architecture="ernie4_5-moe",
    write=_own_keys,
    hf=gguf_hf,
    weights=(*llama_rules(), *EXPERT_RULES, *SHARED_EXPERT_RULES),
    experts=True,
)

TINY = llama.TINY | {
    "model_type": "ernie4_5_moe",
    "num_hidden_layers": 4,
    "moe_intermediate_size": 24,
    "moe_num_experts": 8,
    "moe_k": 3,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1,
    "pad_token_id": 0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"use_bias": True, "tie_word_embeddings": False},
    "every_second": {"moe_layer_interval": 2},
    "ends": {"moe_layer_end_index": 2, "moe_num_shared_experts": 0},
    "untied": {"tie_word_embeddings": False, "head_dim": 16},
}
