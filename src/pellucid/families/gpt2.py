"""GPT-2: learned positions, LayerNorm with bias, one fused projection to q, k and v stored as (in, out), GELU (tanh
form).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import AttentionConfig, LayerConfig, MLPConfig, ModelConfig, NormConfig, PartNorms
from pellucid.families.translation.gguf import GGUF, special_tokens, vocab_size
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, one_or_many
from pellucid.families.translation.rules import SPLIT_QKV, Rule, Transpose, qkv_names

HARMLESS = ("n_ctx",)  # the context again, under its oldest name


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    keys.only("reorder_and_upcast_attn", False, True)  # a matter of precision in half-precision training, not of values
    return build(keys)


def build(keys: Keys, *, num_kv_heads: int | None = None, activation: str = "gelu_new") -> ModelConfig:
    """GPT-2's shape; a relative has fewer key-value heads."""
    keys.only("add_cross_attention", False)
    d_model, num_heads = keys.size("n_embd", 768), keys.size("n_head", 12)
    head_dim = max(d_model // num_heads, 1)
    norm = NormConfig(kind="layer", eps=keys.get("layer_norm_epsilon", 1e-5), bias=True)
    norms = PartNorms(before=norm)
    mlp = MLPConfig(
        d_ff=keys.size("n_inner", 4 * d_model),
        activation=keys.activation("activation_function", activation),
        gated=False,
        bias=True,
    )
    scale = head_dim**-0.5 if keys.get("scale_attn_weights", True) else 1.0
    by_layer = keys.get("scale_attn_by_inverse_layer_idx", False)

    def layer(i: int) -> LayerConfig:
        attention = AttentionConfig(
            num_heads=num_heads,
            num_kv_heads=num_kv_heads or num_heads,
            head_dim=head_dim,
            qkv_bias=True,
            o_bias=True,
            scale=scale / (i + 1) if by_layer else scale,
        )
        return LayerConfig(mixer=attention, mlp=mlp, mixer_norms=norms, mlp_norms=norms)

    return ModelConfig(
        model_type=keys.get("model_type", "gpt2"),
        vocab_size=keys.size("vocab_size", 50257),
        d_model=d_model,
        context_len=keys.size("n_positions", 1024),
        layers=tuple(layer(i) for i in range(keys.num_layers("n_layer"))),
        final_norm=norm,
        position="learned",
        **keys.common(tied=True),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    first, last = config.layers[0], config.layers[-1]
    unscaled = first.mixer.scale == 1.0 and first.mixer.head_dim > 1
    return {
        **config.extra,
        "model_type": config.model_type,
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_embd": config.d_model,
        "n_head": first.mixer.num_heads,
        "n_layer": config.num_layers,
        "n_positions": config.context_len,
        "n_inner": first.mlp.d_ff,
        "activation_function": {"gelu_tanh": "gelu_new"}.get(first.mlp.activation, first.mlp.activation),
        "layer_norm_epsilon": next(iter(first.norms.values())).eps,
        "scale_attn_weights": not unscaled,
        "scale_attn_by_inverse_layer_idx": first.mixer.scale != last.mixer.scale,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_many(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }


def block(
    names: Mapping[str, str], layer_at: str, transpose: tuple[Transpose, ...], norm: str = "norm"
) -> tuple[Rule, ...]:
    """The rules of one layer; the two formats differ in names, and in whether a projection is stored transposed."""
    at = "layers.{i}."
    return (
        Rule(layer_at + names["norm_1"] + ".weight", at + f"attention_{norm}.weight"),
        Rule(layer_at + names["norm_1"] + ".bias", at + f"attention_{norm}.bias"),
        Rule(layer_at + names["qkv"] + ".weight", qkv_names("weight"), (*transpose, SPLIT_QKV)),
        Rule(layer_at + names["qkv"] + ".bias", qkv_names("bias"), (SPLIT_QKV,)),
        Rule(layer_at + names["o"] + ".weight", at + "attention.o_proj.weight", transpose),
        Rule(layer_at + names["o"] + ".bias", at + "attention.o_proj.bias"),
        Rule(layer_at + names["norm_2"] + ".weight", at + f"mlp_{norm}.weight"),
        Rule(layer_at + names["norm_2"] + ".bias", at + f"mlp_{norm}.bias"),
        Rule(layer_at + names["up"] + ".weight", at + "mlp.up_proj.weight", transpose),
        Rule(layer_at + names["up"] + ".bias", at + "mlp.up_proj.bias"),
        Rule(layer_at + names["down"] + ".weight", at + "mlp.down_proj.weight", transpose),
        Rule(layer_at + names["down"] + ".bias", at + "mlp.down_proj.bias"),
    )


WEIGHTS = (
    Rule("transformer.wte.weight", "embed.weight"),
    Rule("transformer.wpe.weight", "pos_embed.weight"),
    *block(
        {
            "norm_1": "ln_1",
            "qkv": "attn.c_attn",
            "o": "attn.c_proj",
            "norm_2": "ln_2",
            "up": "mlp.c_fc",
            "down": "mlp.c_proj",
        },
        "transformer.h.{i}.",
        (Transpose(),),
    ),
    Rule("transformer.ln_f.weight", "final_norm.weight"),
    Rule("transformer.ln_f.bias", "final_norm.bias"),
    Rule("lm_head.weight", "lm_head.weight"),
)
IGNORED = ("*.attn.bias", "*.attn.masked_bias")  # the causal mask, as a buffer


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    num_heads = metadata.needed("gpt2.attention.head_count")
    metadata.expect("gpt2.attention.head_count_kv", num_heads, "GPT-2 has as many key-value heads as query heads")
    return common_hf(metadata, tensors, "gpt2")


def common_hf(metadata: Metadata, tensors: Mapping[str, Array], architecture: str) -> dict[str, Any]:
    return {
        "model_type": architecture,
        "vocab_size": vocab_size(metadata, tensors),
        "n_embd": metadata.needed(f"{architecture}.embedding_length"),
        "n_head": metadata.needed(f"{architecture}.attention.head_count"),
        "n_layer": metadata.needed(f"{architecture}.block_count"),
        "n_positions": metadata.needed(f"{architecture}.context_length"),
        "n_inner": metadata.needed(f"{architecture}.feed_forward_length"),
        "layer_norm_epsilon": float(metadata.needed(f"{architecture}.attention.layer_norm_epsilon")),
        "tie_word_embeddings": "output.weight" not in tensors,
        **special_tokens(metadata),
    }


GGUF = GGUF(
    architecture="gpt2",
    hf=gguf_hf,
    weights=(
        Rule("token_embd.weight", "embed.weight"),
        Rule("position_embd.weight", "pos_embed.weight"),
        *block(
            {
                "norm_1": "attn_norm",
                "qkv": "attn_qkv",
                "o": "attn_output",
                "norm_2": "ffn_norm",
                "up": "ffn_up",
                "down": "ffn_down",
            },
            "blk.{i}.",
            (),
        ),
        Rule("output_norm.weight", "final_norm.weight"),
        Rule("output_norm.bias", "final_norm.bias"),
        Rule("output.weight", "lm_head.weight"),
    ),
    harmless=("rope.*", "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon"),
)

TINY = {
    "model_type": "gpt2",
    "vocab_size": 96,
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "untied": {"tie_word_embeddings": False},
    "unscaled": {"scale_attn_weights": False},
    "scale_by_layer": {"scale_attn_by_inverse_layer_idx": True},
    "narrow": {"n_inner": 48},
    "relu": {"activation_function": "relu"},
    "gelu": {"activation_function": "gelu"},
}
