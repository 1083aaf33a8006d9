"""Gemma 3 (text): Llama's shape with a norm before and after each part, norms on each head's q and k, GELU gates.

Of six layers five see a sliding window, with rotary positions of a small θ, and one sees all, with a large one.
Embeddings are scaled by √d_model; a norm's weight is what γ has beyond 1.
Source: Gemma Team 2025, *Gemma 3 Technical Report* §2; transformers models/gemma3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError
from pellucid.config import AttentionConfig, LayerConfig, MLPConfig, ModelConfig, NormConfig, PartNorms, RopeConfig
from pellucid.families import llama, qwen3
from pellucid.families.translation.gguf import GGUF, common_keys, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, rope, rope_to_hf
from pellucid.families.translation.rules import Rule, with_offset

HARMLESS = ("cache_implementation",)


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    keys.only("use_bidirectional_attention", False)
    keys.only("attn_logit_softcapping", None)  # Gemma 2's; the code of 3 reads the key and does nothing with it
    d_model, head_dim = keys.size("hidden_size", 2304), keys.size("head_dim", 256)
    context_len, window = keys.size("max_position_embeddings", 131072), keys.size("sliding_window", 4096)
    norm = NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-6), offset=keys.get("norm_weight_offset", 1.0))
    norms = PartNorms(before=norm, after=norm)
    bias, queries = keys.switch("attention_bias", False), keys.get("query_pre_attn_scalar", 256)
    activation = keys.activation("hidden_activation", "gelu_pytorch_tanh")
    mlp = MLPConfig(d_ff=keys.size("intermediate_size", 9216), activation=activation)
    near, far = ropes(keys, head_dim, context_len)

    def layer(sees_all: bool) -> LayerConfig:
        attention = AttentionConfig(
            num_heads=keys.size("num_attention_heads", 8),
            num_kv_heads=keys.size("num_key_value_heads", 4),
            head_dim=head_dim,
            qkv_bias=bias,
            o_bias=bias,
            qk_norm=norm,
            rope=far if sees_all else near,
            window=None if sees_all else window,
            scale=None if queries == head_dim else queries**-0.5,
        )
        return LayerConfig(mixer=attention, mlp=mlp, mixer_norms=norms, mlp_norms=norms)

    return ModelConfig(
        model_type="gemma3_text",
        vocab_size=keys.size("vocab_size", 262208),
        d_model=d_model,
        context_len=context_len,
        layers=tuple(layer(kind == "full_attention") for kind in layer_types(keys, every=6)),
        final_norm=norm,
        embedding_scale=math.sqrt(d_model),
        logit_softcap=keys.get("final_logit_softcapping"),
        **keys.common(tied=True),
    )


def layer_types(keys: Keys, every: int) -> list[str]:
    """Each layer's attention: ``layer_types`` says it, or each ``every``-th sees all (``sliding_window_pattern``)."""
    num_layers = keys.num_layers("num_hidden_layers")
    every = keys.size("sliding_window_pattern", keys.size("_sliding_window_pattern", every))
    kinds = ("sliding_attention", "full_attention")
    types = keys.get("layer_types") or [kinds[(i + 1) % every == 0] for i in range(num_layers)]
    if not isinstance(types, list) or len(types) != num_layers or set(map(str, types)) - set(kinds):
        expected = f"{num_layers} of {' or '.join(kinds)}"
        raise ConfigError(
            "layer_types must name each layer's attention", where=keys.where, expected=expected, received=repr(types)
        )
    return types


def ropes(keys: Keys, head_dim: int, context_len: int) -> tuple[RopeConfig, RopeConfig]:
    """Of layers with a window, and of those that see all: ``rope_parameters`` of each (transformers 5), or two θ and
    one scaling (before it).
    """
    thetas = keys.get("rope_local_base_freq", 1e4), keys.get("rope_theta", 1e6)
    by_kind, scaling = keys.get("rope_parameters", {}), keys.get("rope_scaling")
    if not isinstance(by_kind, Mapping):
        raise ConfigError("rope_parameters must be an object", where=keys.where, received=repr(by_kind))
    settings = by_kind.get("sliding_attention"), by_kind.get("full_attention") or scaling
    near, far = (
        rope(Keys({"rope_theta": theta, "rope_parameters": part}, where=keys.where), head_dim, context_len)
        for theta, part in zip(thetas, settings, strict=True)
    )
    return near, far


def to_hf(config: ModelConfig) -> dict[str, Any]:
    attention = config.layers[0].mixer
    near = next((layer.mixer for layer in config.layers if layer.mixer.window), attention)
    far = next((layer.mixer for layer in config.layers if not layer.mixer.window), attention)
    assert near.rope
    assert far.rope
    hf = llama.base_to_hf(config)
    return hf | {
        "architectures": ["Gemma3ForCausalLM"],
        "hidden_activation": hf.pop("hidden_act"),
        "attention_bias": attention.qkv_bias,
        "query_pre_attn_scalar": round(attention.softmax_scale**-2),
        "sliding_window": near.window or config.context_len,
        "layer_types": ["sliding_attention" if layer.mixer.window else "full_attention" for layer in config.layers],
        "final_logit_softcapping": config.logit_softcap,
        "rope_local_base_freq": near.rope.theta,
        **rope_to_hf(far.rope),
    }


WEIGHTS = with_offset(
    (
        *(rule for rule in qwen3.WEIGHTS if "post_attention_layernorm" not in rule.theirs),
        Rule("model.layers.{i}.post_attention_layernorm.weight", "layers.{i}.attention_post_norm.weight"),
        Rule("model.layers.{i}.pre_feedforward_layernorm.weight", "layers.{i}.mlp_norm.weight"),
        Rule("model.layers.{i}.post_feedforward_layernorm.weight", "layers.{i}.mlp_post_norm.weight"),
    ),
    offset=1.0,
)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    common = common_keys("gemma3", metadata, tensors)
    # 27B alone scales by the width of a head that d_model would make. Source: llama.cpp src/models/gemma3.cpp.
    whole = common["hidden_size"] // common["num_attention_heads"]
    return common | {
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": whole if common["num_hidden_layers"] == 62 else common["head_dim"],
        "sliding_window": metadata.scalar("gemma3.attention.sliding_window", 1024),
        "rope_local_base_freq": metadata.scalar("gemma3.rope.freq_base_swa", 1e4),
        "final_logit_softcapping": metadata.scalar("gemma3.final_logit_softcapping") or None,
        "norm_weight_offset": 0.0,  # llama.cpp's converter adds the 1 to every norm
    }


GGUF = GGUF(
    architecture="gemma3",
    hf=gguf_hf,
    weights=with_offset(
        (
            *llama_rules(),
            Rule("blk.{i}.post_attention_norm.weight", "layers.{i}.attention_post_norm.weight"),
            Rule("blk.{i}.post_ffw_norm.weight", "layers.{i}.mlp_post_norm.weight"),
        ),
        offset=0.0,
    ),
)

TINY = llama.TINY | {
    "model_type": "gemma3_text",
    "head_dim": 16,
    "query_pre_attn_scalar": 24,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_local_base_freq": 10000.0,
    "rope_theta": 1000000.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "untied": {"tie_word_embeddings": False},
    "bias": {"attention_bias": True},
    "softcap": {"final_logit_softcapping": 3.0},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "pattern": {"layer_types": None, "sliding_window_pattern": 2},
    "multi_query": {"num_key_value_heads": 1},
}
