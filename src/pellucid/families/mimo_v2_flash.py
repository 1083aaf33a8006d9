"""MiMo-V2-Flash: windows with sinks and twice the key-value heads, narrow scaled values, mixtures as DeepSeek-V3's.

Source: Xiaomi 2025, *MiMo-V2-Flash*; transformers models/mimo_v2_flash.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.errors import ConfigError
from pellucid.config import AttentionConfig, ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.experts import (
    HARMLESS as OF_MIXTURES,
)
from pellucid.families.translation.experts import (
    deepseek_experts,
    deepseek_to_hf,
    expert_rules,
    in_memory,
    mlps_of,
)
from pellucid.families.translation.hf import Keys, partial_rotary_to_hf, rope, rope_to_hf
from pellucid.families.translation.rules import Rule

KINDS = ("full_attention", "sliding_attention")
PARTIAL = 0.334  # of a head turns
# What its own code says once more, of layers with a window and of those that see all.
HARMLESS = (*OF_MIXTURES, "hybrid_block_size", "partial_rotary_factor")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    num_layers = keys.num_layers("num_hidden_layers")
    freq = keys.get("moe_layer_freq", [0] + [1] * (num_layers - 1))
    mlps = keys.get("mlp_layer_types", ["sparse" if here else "dense" for here in freq])
    if not isinstance(mlps, list) or len(mlps) != num_layers:
        raise ConfigError("mlp_layer_types must name each layer's MLP", where=keys.where, received=repr(mlps)[:80])
    mixture = deepseek_experts(keys, num_experts=256, shared=None, width=2048)
    return llama.build(
        keys,
        norm=NormConfig(kind="rms", eps=keys.get("rms_norm_eps", keys.get("layernorm_epsilon", 1e-5))),
        mixers=_mixers(keys, num_layers),
        mlps=mlps_of(keys, *mixture, [kind == "sparse" for kind in mlps]),
    )


def _mixers(keys: Keys, num_layers: int) -> list[AttentionConfig]:
    near = keys.get("hybrid_layer_pattern", [int(i > 0 and (i + 1) % 6 > 0) for i in range(num_layers)])
    kinds = keys.get("layer_types") or ["sliding_attention" if here else "full_attention" for here in near]
    if not isinstance(kinds, list) or len(kinds) != num_layers or not set(kinds) <= set(KINDS):
        raise ConfigError("layer_types must name each layer's attention", where=keys.where, received=repr(kinds)[:80])
    head_dim, context_len = keys.size("head_dim", 192), keys.size("max_position_embeddings", 131072)
    said, before = (
        keys.get("rope_parameters", {}),
        keys.get("sliding_window_size"),
    )  # the query's own place comes on top
    window = keys.size("sliding_window", 129) if before is None else before + 1
    thetas = {"full_attention": keys.get("rope_theta", 5e6), "sliding_attention": keys.get("swa_rope_theta", 1e4)}
    ropes = {
        kind: rope(
            Keys({"rope_parameters": {"rope_theta": theta} | dict(said.get(kind) or {})}, where=keys.where),
            head_dim,
            context_len,
            partial=PARTIAL,
        )
        for kind, theta in thetas.items()
    }
    num_heads, bias = keys.size("num_attention_heads", 64), keys.switch("attention_bias", False)
    num_kv_heads, scale = keys.size("num_key_value_heads", 4), keys.get("attention_value_scale", 0.707)
    keys.only("swa_num_attention_heads", num_heads)
    keys.only("swa_num_key_value_heads", 2 * num_kv_heads)
    keys.only("swa_head_dim", head_dim)
    keys.only("swa_v_head_dim", keys.size("v_head_dim", 128))
    keys.only("add_swa_attention_sink_bias", True)
    keys.only("add_full_attention_sink_bias", False)
    return [
        AttentionConfig(
            num_heads=num_heads,
            num_kv_heads=num_kv_heads * (2 if kind == "sliding_attention" else 1),
            head_dim=head_dim,
            v_head_dim=keys.size("v_head_dim", 128),
            v_scale=scale,
            qkv_bias=bias,
            rope=ropes[kind],
            window=window if kind == "sliding_attention" else None,
            sinks=kind == "sliding_attention",
        )
        for kind in kinds
    ]


def to_hf(config: ModelConfig) -> dict[str, Any]:
    mixers = [layer.mixer for layer in config.layers if isinstance(layer.mixer, AttentionConfig)]
    first = mixers[0]
    by_kind = {"sliding_attention" if mixer.window else "full_attention": mixer.rope for mixer in mixers}
    ropes = {
        kind: (rope_to_hf(one)["rope_scaling"] or {"rope_type": "default"})
        | {"rope_theta": one.theta, "partial_rotary_factor": partial_rotary_to_hf(first.head_dim, one.dim)}
        for kind, one in by_kind.items()
        if one
    }
    base = llama.base_to_hf(config) | deepseek_to_hf(config, shared=None)
    elsewhere = ("rope_theta", "rope_scaling", "first_k_dense_replace")
    return {name: value for name, value in base.items() if name not in elsewhere} | {
        "architectures": ["MiMoV2FlashForCausalLM"],
        "attention_bias": first.qkv_bias,
        "num_key_value_heads": first.num_kv_heads // (2 if first.window else 1),
        "v_head_dim": first.v_width,
        "attention_value_scale": first.v_scale,
        "sliding_window": next((mixer.window for mixer in mixers if mixer.window), 129),
        "layer_types": ["sliding_attention" if mixer.window else "full_attention" for mixer in mixers],
        "mlp_layer_types": ["sparse" if layer.experts else "dense" for layer in config.layers],
        "rope_parameters": ropes,
    }


_SINKS = "model.layers.{i}.self_attn.attention_sink_bias"
WEIGHTS = (
    *llama.WEIGHTS,
    Rule(_SINKS, "layers.{i}.attention.sinks"),
    *expert_rules(correction="gate.e_score_correction_bias"),
)
ALSO = (*in_memory(WEIGHTS, "mlp"), Rule("model.layers.{i}.self_attn.sinks", "layers.{i}.attention.sinks"))
IGNORED = (*llama.IGNORED, "model.mtp.*")
GGUF = None

TINY = llama.TINY | {
    "model_type": "mimo_v2_flash",
    "tie_word_embeddings": False,
    "num_hidden_layers": 3,
    "num_key_value_heads": 1,
    "head_dim": 12,
    "v_head_dim": 6,
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    "sliding_window": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "bias": {"attention_bias": True, "attention_value_scale": 1.0},
    "kinds": {"layer_types": None, "num_hidden_layers": 7, "mlp_layer_types": ["dense"] * 3 + ["sparse"] * 4},
    "thetas": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0},
        }
    },
    "tied": {"tie_word_embeddings": True},
}
