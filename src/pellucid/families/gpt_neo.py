"""GPT-Neo: GPT-2's shape with q, k and v apart and without biases, scores unscaled, a window in every other layer.

Source: Black et al. 2021; transformers models/gpt_neo.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.errors import ConfigError
from pellucid.config import MAX_LAYERS, AttentionConfig, LayerConfig, MLPConfig, ModelConfig, NormConfig, PartNorms
from pellucid.families.translation.hf import Keys, one_or_many
from pellucid.families.translation.rules import Rule, both

HARMLESS = ("attention_layers",)  # what attention_types says, by layer


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    d_model, num_heads = keys.size("hidden_size", 2048), keys.size("num_heads", 16)
    head_dim, window = max(d_model // num_heads, 1), keys.size("window_size", 256)
    norm = NormConfig(kind="layer", eps=keys.get("layer_norm_epsilon", 1e-5), bias=True)
    norms = PartNorms(before=norm)
    activation = keys.activation("activation_function", "gelu_new")
    mlp = MLPConfig(d_ff=keys.size("intermediate_size", 4 * d_model), activation=activation, gated=False, bias=True)

    def layer(kind: str) -> LayerConfig:
        attention = AttentionConfig(
            num_heads=num_heads,
            num_kv_heads=num_heads,
            head_dim=head_dim,
            o_bias=True,
            scale=1.0,
            window=window if kind == "local" else None,
        )
        return LayerConfig(mixer=attention, mlp=mlp, mixer_norms=norms, mlp_norms=norms)

    return ModelConfig(
        model_type="gpt_neo",
        vocab_size=keys.size("vocab_size", 50257),
        d_model=d_model,
        context_len=keys.size("max_position_embeddings", 2048),
        layers=tuple(layer(kind) for kind in _kinds(keys)),
        final_norm=norm,
        position="learned",
        **keys.common(tied=True),
    )


def _kinds(keys: Keys) -> list[str]:
    """Each layer's attention, from [[["global", "local"], 12]]: patterns, and how often each is repeated."""
    num_layers, kinds = keys.num_layers("num_layers"), []
    types = keys.get("attention_types", [[["global", "local"], 12]])
    try:
        for pattern, times in types:
            kinds += list(pattern) * min(times, MAX_LAYERS)
    except (TypeError, ValueError):
        kinds = []
    if len(kinds) != num_layers or set(map(str, kinds)) - {"global", "local"}:
        raise ConfigError(
            "attention_types must name each layer's attention",
            where=keys.where,
            expected=f"{num_layers} of global or local",
            received=repr(types),
        )
    return kinds


def to_hf(config: ModelConfig) -> dict[str, Any]:
    first, windows = config.layers[0], [layer.mixer.window for layer in config.layers]
    return {
        **config.extra,
        "model_type": "gpt_neo",
        "architectures": ["GPTNeoForCausalLM"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_heads": first.mixer.num_heads,
        "num_layers": config.num_layers,
        "max_position_embeddings": config.context_len,
        "intermediate_size": first.mlp.d_ff,
        "activation_function": {"gelu_tanh": "gelu_new"}.get(first.mlp.activation, first.mlp.activation),
        "attention_types": [[["local" if window else "global"], 1] for window in windows],
        "window_size": next((window for window in windows if window), 256),
        "layer_norm_epsilon": next(iter(first.norms.values())).eps,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_many(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }


_AT, _OURS = "transformer.h.{i}.", "layers.{i}."
WEIGHTS = (
    Rule("transformer.wte.weight", "embed.weight"),
    Rule("transformer.wpe.weight", "pos_embed.weight"),
    *both(_AT + "ln_1", _OURS + "attention_norm"),
    *both(_AT + "attn.attention.q_proj", _OURS + "attention.q_proj"),
    *both(_AT + "attn.attention.k_proj", _OURS + "attention.k_proj"),
    *both(_AT + "attn.attention.v_proj", _OURS + "attention.v_proj"),
    *both(_AT + "attn.attention.out_proj", _OURS + "attention.o_proj"),
    *both(_AT + "ln_2", _OURS + "mlp_norm"),
    *both(_AT + "mlp.c_fc", _OURS + "mlp.up_proj"),
    *both(_AT + "mlp.c_proj", _OURS + "mlp.down_proj"),
    *both("transformer.ln_f", "final_norm"),
    Rule("lm_head.weight", "lm_head.weight"),
)
IGNORED = ("*.attn.attention.bias", "*.attn.attention.masked_bias")  # the causal mask, as a buffer
GGUF = None

TINY = {
    "model_type": "gpt_neo",
    "vocab_size": 96,
    "hidden_size": 32,
    "num_heads": 4,
    "num_layers": 2,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "narrow": {"intermediate_size": 48},
    "untied": {"tie_word_embeddings": False},
    "all_global": {"attention_types": [[["global"], 2]]},
}
