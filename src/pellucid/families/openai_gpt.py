"""GPT (1): GPT-2's parts with the norm after each sum, as in *Attention Is All You Need*, and none at the end.

What its config calls "gelu" is the tanh form. Source: Radford et al. 2018 §4.1; transformers models/openai.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.errors import UnsupportedError
from pellucid.config import Activation, AttentionConfig, LayerConfig, MLPConfig, ModelConfig, NormConfig, PartNorms
from pellucid.families import gpt2
from pellucid.families.translation.hf import Keys, one_or_many
from pellucid.families.translation.rules import Rule, Transpose

ACTIVATIONS: dict[str, Activation] = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}
HARMLESS = ("n_ctx", "afn")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    if (name := keys.get("afn", "gelu")) not in ACTIVATIONS:
        raise UnsupportedError(f"afn {name!r} is not implemented", where=keys.where, expected=", ".join(ACTIVATIONS))
    d_model, num_heads = keys.size("n_embd", 768), keys.size("n_head", 12)
    attention = AttentionConfig(
        num_heads=num_heads, num_kv_heads=num_heads, head_dim=max(d_model // num_heads, 1), qkv_bias=True, o_bias=True
    )
    mlp = MLPConfig(d_ff=4 * d_model, activation=ACTIVATIONS[name], gated=False, bias=True)
    norms = PartNorms(sum=NormConfig(kind="layer", eps=keys.get("layer_norm_epsilon", 1e-5), bias=True))
    return ModelConfig(
        model_type="openai-gpt",
        vocab_size=keys.size("vocab_size", 40478),
        d_model=d_model,
        context_len=keys.size("n_positions", 512),
        layers=(LayerConfig(mixer=attention, mlp=mlp, mixer_norms=norms, mlp_norms=norms),)
        * keys.num_layers("n_layer"),
        final_norm=None,
        position="learned",
        **keys.common(tied=True),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer = config.layers[0]
    return {
        **config.extra,
        "model_type": "openai-gpt",
        "architectures": ["OpenAIGPTLMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_embd": config.d_model,
        "n_head": layer.mixer.num_heads,
        "n_layer": config.num_layers,
        "n_positions": config.context_len,
        "afn": {"gelu_tanh": "gelu"}.get(layer.mlp.activation, layer.mlp.activation),
        "layer_norm_epsilon": next(iter(layer.norms.values())).eps,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_many(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }


NAMES = {
    "norm_1": "ln_1",
    "qkv": "attn.c_attn",
    "o": "attn.c_proj",
    "norm_2": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}
WEIGHTS = (
    Rule("transformer.tokens_embed.weight", "embed.weight"),
    Rule("transformer.positions_embed.weight", "pos_embed.weight"),
    *gpt2.block(NAMES, "transformer.h.{i}.", (Transpose(),), norm="sum_norm"),
    Rule("lm_head.weight", "lm_head.weight"),
)
IGNORED = ("*.attn.bias", "*.position_ids")
GGUF = None

TINY = gpt2.TINY | {"model_type": "openai-gpt"}
VARIANTS = {"relu": {"afn": "relu"}, "untied": {"tie_word_embeddings": False}}
