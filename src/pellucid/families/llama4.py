"""Llama 4 (the text part): chunked attention, layers that do not turn, q and k of one length, experts weigh inputs.

Three of four layers turn, bring q and k to one length after it, and see their own chunk of the text alone; the fourth
sees all, and its queries grow with their position. Source: Meta AI 2025, *The Llama 4 herd*; transformers llama4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError
from pellucid.config import AttentionConfig, ExpertsConfig, MLPConfig, ModelConfig, NormConfig, QueryScale
from pellucid.families import llama
from pellucid.families.translation.experts import ByLayer, a_sparse_layer
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
from pellucid.families.translation.rules import SPLIT_GATE_UP, Each, Rule, Transpose, Unstack, renamed

HARMLESS = ("for_llm_compressor", "cache_implementation")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    norm = NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-5))
    return llama.build(keys, norm=norm, mixers=_mixers(keys, norm.eps), mlps=_mlps(keys))


def _mixers(keys: Keys, eps: float) -> list[AttentionConfig]:
    num_layers, head_dim = keys.num_layers("num_hidden_layers"), keys.size("head_dim", 128)
    every, said = keys.size("no_rope_layer_interval", 4), keys.get("no_rope_layers")
    turning = [bool(turns) for turns in said or [(i + 1) % every for i in range(num_layers)]]
    kinds = keys.get("layer_types") or ["chunked_attention" if turns else "full_attention" for turns in turning]
    if not len(turning) == len(kinds) == num_layers or not {"chunked_attention", "full_attention"}.issuperset(kinds):
        raise ConfigError(
            "no_rope_layers and layer_types must say of each layer whether it turns and what it sees",
            where=keys.where,
            expected=f"{num_layers} of either, the latter chunked_attention or full_attention",
            received=f"{turning}, {kinds}"[:200],
        )
    rotary = rope(keys, head_dim, keys.size("max_position_embeddings", 131072), default_theta=5e5, layout="interleaved")
    grows = QueryScale(beta=keys.get("attn_scale", 0.1), every=keys.size("floor_scale", 8192), offset=1)
    grows = grows if keys.get("attn_temperature_tuning", True) else None
    length = NormConfig(kind="rms", eps=eps, weight=False) if keys.get("use_qk_norm", True) else None
    chunk, bias = keys.get("attention_chunk_size", 8192), keys.switch("attention_bias", False)
    num_heads = keys.size("num_attention_heads")
    return [
        AttentionConfig(
            num_heads=num_heads,
            num_kv_heads=keys.size("num_key_value_heads", num_heads),
            head_dim=head_dim,
            qkv_bias=bias,
            o_bias=bias,
            qk_norm=length if turns else None,
            qk_norm_at="after",
            rope=replace(rotary, wide=True) if turns else None,
            query_scale=None if turns else grows,
            chunk=chunk if kind == "chunked_attention" else None,
        )
        for turns, kind in zip(turning, kinds, strict=True)
    ]


def _mlps(keys: Keys) -> ByLayer:
    num_layers, activation = keys.num_layers("num_hidden_layers"), keys.activation("hidden_act", "silu")
    every, said = keys.size("interleave_moe_layer_step", 1), keys.get("moe_layers")
    sparse = range(every - 1, num_layers, every) if said is None else said
    expert = MLPConfig(d_ff=keys.size("intermediate_size", 8192), activation=activation)
    dense = MLPConfig(d_ff=keys.size("intermediate_size_mlp", 16384), activation=activation)
    experts = ExpertsConfig(
        num_experts=keys.size("num_local_experts", 16),
        experts_per_token=keys.size("num_experts_per_tok", 1),
        scores="sigmoid",
        normalize=False,
        weighs="input",
        shared=expert,
    )
    return tuple((expert, experts) if i in sparse else (dense, None) for i in range(num_layers))


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer, experts = a_sparse_layer(config)
    mixers = [one.mixer for one in config.layers if isinstance(one.mixer, AttentionConfig)]
    grows = next((mixer.query_scale for mixer in mixers if mixer.query_scale), None)
    dense = next((one.mlp.d_ff for one in config.layers if not one.experts), 2 * layer.mlp.d_ff)
    written = llama.base_to_hf(config) | {
        "architectures": ["Llama4ForCausalLM"],
        "attention_bias": mixers[0].qkv_bias,
        "attention_chunk_size": next((mixer.chunk for mixer in mixers if mixer.chunk), None),
        "no_rope_layers": [int(mixer.rope is not None) for mixer in mixers],
        "layer_types": ["chunked_attention" if mixer.chunk else "full_attention" for mixer in mixers],
        "use_qk_norm": any(mixer.qk_norm for mixer in mixers),
        "attn_temperature_tuning": grows is not None,
        "intermediate_size": layer.mlp.d_ff,
        "intermediate_size_mlp": dense,
        "moe_layers": [i for i, one in enumerate(config.layers) if one.experts],
        "num_local_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
    }
    return written | ({"attn_scale": grows.beta, "floor_scale": grows.every} if grows else {})


_PART, _OURS = "model.layers.{i}.feed_forward", "layers.{i}.mlp"
WEIGHTS = (
    *renamed(llama.WEIGHTS, {".mlp.": ".feed_forward."}),
    Rule(f"{_PART}.router.weight", f"{_OURS}.router.weight"),
    *(
        Rule(f"{_PART}.shared_expert.{name}.weight", f"{_OURS}.shared.{name}.weight")
        for name in ("gate_proj", "up_proj", "down_proj")
    ),
    Rule(
        f"{_PART}.experts.gate_up_proj",
        (f"{_OURS}.experts.{{e}}.gate_proj.weight", f"{_OURS}.experts.{{e}}.up_proj.weight"),
        (Unstack(), Transpose(), Each(SPLIT_GATE_UP, 2)),
    ),
    Rule(f"{_PART}.experts.down_proj", f"{_OURS}.experts.{{e}}.down_proj.weight", (Unstack(), Transpose())),
)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    """What llama.cpp itself takes for given: chunks of 8192, no turning in every fourth layer, its temperature."""
    common, routed = common_keys("llama4", metadata, tensors), experts_keys("llama4", metadata, normalize=False)
    metadata.expect("llama4.leading_dense_block_count", 0, "dense layers in front")
    metadata.expect("llama4.expert_swa", True, "attention without chunks")
    return common | {
        "model_type": "llama4_text",
        "intermediate_size_mlp": common["intermediate_size"],
        "intermediate_size": expert_width("llama4", metadata, tensors),
        "num_local_experts": routed["num_experts"],
        "num_experts_per_tok": routed["num_experts_per_tok"],
        "interleave_moe_layer_step": metadata.needed("llama4.interleave_moe_layer_step"),
        "use_qk_norm": routed["num_experts"] != 128,  # Scout brings q and k to one length, Maverick does not
        "attention_bias": has_bias(tensors, "attn_q", "attn_k", "attn_v", "attn_output"),
    }


GGUF = GGUF(
    architecture="llama4",
    hf=gguf_hf,
    weights=(*llama_rules(), *EXPERT_RULES, *SHARED_EXPERT_RULES),
    ignored=("rope_freqs.weight",),
    experts=True,
)

TINY = llama.TINY | {
    "model_type": "llama4_text",
    "tie_word_embeddings": False,
    "head_dim": 8,
    "intermediate_size": 24,
    "intermediate_size_mlp": 40,
    "num_hidden_layers": 4,
    "interleave_moe_layer_step": 2,
    "num_local_experts": 4,
    "attention_chunk_size": 8,
    "floor_scale": 4,
    "attn_scale": 0.3,
    "pad_token_id": 0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "scout": {"interleave_moe_layer_step": 1, "num_hidden_layers": 2, "no_rope_layers": [1, 0]},
    "maverick": {"use_qk_norm": False, "num_experts_per_tok": 2, "moe_layers": [1]},
    "no_temperature": {"attn_temperature_tuning": False, "attention_bias": True},
    "no_chunks": {"attention_chunk_size": 64, "rope_scaling": llama.VARIANTS["llama3"]["rope_scaling"]},
    "step": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 16.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 1.0,
            "original_max_position_embeddings": 32,
        }
    },
    "types": {"layer_types": ["full_attention", "chunked_attention"] * 2},
}
