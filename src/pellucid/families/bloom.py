"""BLOOM: no positions but ALiBi; the embedding is normed. Source: BigScience 2022 §3.2; transformers models/bloom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import AttentionConfig, LayerConfig, MLPConfig, ModelConfig, NormConfig, PartNorms
from pellucid.families.translation.gguf import GGUF, special_tokens, vocab_size
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, one_or_many
from pellucid.families.translation.rules import SPLIT_QKV, Rule, SplitHeads, both, qkv_names

# Old files say how Megatron trained, and what its kernels fused.
HARMLESS = (
    "*softmax_in_fp32",
    "*_fusion",
    "offset_alibi",
    "skip_bias_add*",
    "slow_but_exact",
    "n_inner",
    "unk_token_id",
)


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    keys.only("apply_residual_connection_post_layernorm", False)
    d_model = keys.size("n_embed", keys.size("hidden_size", 64))
    num_heads = keys.size("n_head", keys.size("num_attention_heads", 8))
    norm = NormConfig(kind="layer", eps=keys.get("layer_norm_epsilon", 1e-5), bias=True)
    attention = AttentionConfig(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=max(d_model // num_heads, 1),
        qkv_bias=True,
        o_bias=True,
        alibi=8.0,
    )
    mlp = MLPConfig(d_ff=4 * d_model, activation="gelu_tanh", gated=False, bias=True)
    norms = PartNorms(before=norm)
    return ModelConfig(
        model_type="bloom",
        vocab_size=keys.size("vocab_size", 250880),
        d_model=d_model,
        context_len=keys.size("seq_length", 2048),
        layers=(LayerConfig(mixer=attention, mlp=mlp, mixer_norms=norms, mlp_norms=norms),)
        * keys.num_layers("n_layer" if hf.get("n_layer") else "num_hidden_layers"),
        embedding_norm=norm,
        final_norm=norm,
        **keys.common(tied=True),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    assert config.final_norm
    return {
        **config.extra,
        "model_type": "bloom",
        "architectures": ["BloomForCausalLM"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "n_head": config.layers[0].mixer.num_heads,
        "n_layer": config.num_layers,
        "seq_length": config.context_len,
        "layer_norm_epsilon": config.final_norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_many(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }


def _rules(layer: str, names: Mapping[str, str], qkv: Any) -> tuple[Rule, ...]:
    at = "layers.{i}."
    return (
        *both(layer + names["norm_1"], at + "attention_norm"),
        Rule(layer + names["qkv"] + ".weight", qkv_names("weight"), (qkv,)),
        Rule(layer + names["qkv"] + ".bias", qkv_names("bias"), (qkv,)),
        *both(layer + names["o"], at + "attention.o_proj"),
        *both(layer + names["norm_2"], at + "mlp_norm"),
        *both(layer + names["up"], at + "mlp.up_proj"),
        *both(layer + names["down"], at + "mlp.down_proj"),
    )


WEIGHTS = (
    Rule("transformer.word_embeddings.weight", "embed.weight"),
    *both("transformer.word_embeddings_layernorm", "embed_norm"),
    *_rules(
        "transformer.h.{i}.",
        {
            "norm_1": "input_layernorm",
            "qkv": "self_attention.query_key_value",
            "o": "self_attention.dense",
            "norm_2": "post_attention_layernorm",
            "up": "mlp.dense_h_to_4h",
            "down": "mlp.dense_4h_to_h",
        },
        SplitHeads(),
    ),
    *both("transformer.ln_f", "final_norm"),
    Rule("lm_head.weight", "lm_head.weight"),
)
IGNORED = ()


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    return {
        "model_type": "bloom",
        "vocab_size": vocab_size(metadata, tensors),
        "hidden_size": metadata.needed("bloom.embedding_length"),
        "n_head": metadata.needed("bloom.attention.head_count"),
        "n_layer": metadata.needed("bloom.block_count"),
        "seq_length": metadata.needed("bloom.context_length"),
        "layer_norm_epsilon": metadata.needed("bloom.attention.layer_norm_epsilon"),
        "tie_word_embeddings": "output.weight" not in tensors,
        **special_tokens(metadata),
    }


GGUF = GGUF(
    architecture="bloom",
    hf=gguf_hf,
    weights=(
        Rule("token_embd.weight", "embed.weight"),
        *both("token_embd_norm", "embed_norm"),
        *_rules(
            "blk.{i}.",
            {
                "norm_1": "attn_norm",
                "qkv": "attn_qkv",
                "o": "attn_output",
                "norm_2": "ffn_norm",
                "up": "ffn_up",
                "down": "ffn_down",
            },
            SPLIT_QKV,
        ),
        *both("output_norm", "final_norm"),
        Rule("output.weight", "lm_head.weight"),
    ),
)

TINY = {
    "model_type": "bloom",
    "vocab_size": 96,
    "hidden_size": 32,
    "n_head": 4,
    "n_layer": 2,
    "seq_length": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "six_heads": {"n_head": 6, "hidden_size": 48},
    "untied": {"tie_word_embeddings": False},
}
