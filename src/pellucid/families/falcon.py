"""Falcon: an MLP beside attention, both under LayerNorm; one key-value head for all queries, or for each group.

q, k and v of each group are in one matrix. Files with ALiBi (falcon-rw) are refused: their biases are rounded to
bfloat16 by their place in the text. Source: Almazrouei et al. 2023 §4; transformers models/falcon.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError
from pellucid.config import AttentionConfig, LayerConfig, MLPConfig, ModelConfig, NormConfig, PartNorms
from pellucid.families.translation.gguf import GGUF, special_tokens, vocab_size
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, one_or_many, rope, rope_to_hf
from pellucid.families.translation.rules import SPLIT_QKV, Rule, SplitGroups, both, qkv_names

HARMLESS = ("apply_residual_connection_post_layernorm", "rotary")  # never read by the model's code


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    keys.only("alibi", False)
    new, parallel = keys.switch("new_decoder_architecture", False), keys.switch("parallel_attn", True)
    d_model = keys.size("n_embed", keys.size("hidden_size", 4544))
    num_heads = keys.size("num_attention_heads", keys.size("n_head", 71))
    one, num_kv_heads = (
        keys.switch("multi_query", True),
        keys.size("num_kv_heads", keys.size("n_head_kv", num_heads)),
    )
    norms_in_parallel = keys.get("num_ln_in_parallel_attn", 2 if new else 1)
    if (new and not parallel) or norms_in_parallel not in (1, 2) or (norms_in_parallel == 2 and not new):
        raise UnsupportedError("this order of norms is none that Falcon's code computes", where=keys.where)
    norm = NormConfig(kind="layer", eps=keys.get("layer_norm_epsilon", 1e-5), bias=True)
    bias, context_len = keys.switch("bias", False), keys.size("max_position_embeddings", 2048)
    attention = AttentionConfig(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads if new else 1 if one else num_heads,
        head_dim=max(d_model // num_heads, 1),
        qkv_bias=bias,
        o_bias=bias,
        rope=rope(keys, max(d_model // num_heads, 1), context_len),
    )
    mlp = MLPConfig(
        d_ff=keys.size("ffn_hidden_size", 4 * d_model),
        activation=keys.activation("activation", "gelu"),
        gated=False,
        bias=bias,
    )
    layer = LayerConfig(
        mixer=attention,
        mlp=mlp,
        mixer_norms=PartNorms(before=norm),
        mlp_norms=PartNorms(before=None if parallel and norms_in_parallel == 1 else norm),
        parallel=parallel,
    )
    return ModelConfig(
        model_type="falcon",
        vocab_size=keys.size("vocab_size", 65024),
        d_model=d_model,
        context_len=context_len,
        layers=(layer,) * keys.num_layers("num_hidden_layers" if hf.get("num_hidden_layers") else "n_layer"),
        final_norm=norm,
        **keys.common(tied=True),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer = config.layers[0]
    attention, two = layer.mixer, layer.parallel and layer.mlp_norms.before is not None
    assert config.final_norm
    assert attention.rope
    new = two or attention.num_kv_heads not in (1, attention.num_heads)
    return {
        **config.extra,
        **rope_to_hf(attention.rope),
        "model_type": "falcon",
        "architectures": ["FalconForCausalLM"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_attention_heads": attention.num_heads,
        "num_kv_heads": attention.num_kv_heads if new else attention.num_heads,
        "num_hidden_layers": config.num_layers,
        "max_position_embeddings": config.context_len,
        "ffn_hidden_size": layer.mlp.d_ff,
        "activation": {"gelu_tanh": "gelu_pytorch_tanh"}.get(layer.mlp.activation, layer.mlp.activation),
        "layer_norm_epsilon": config.final_norm.eps,
        "alibi": False,
        "bias": attention.qkv_bias,
        "new_decoder_architecture": new,
        "num_ln_in_parallel_attn": 2 if two else 1,
        "multi_query": new or attention.num_kv_heads == 1,
        "parallel_attn": layer.parallel,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_many(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }


def _has_two(layer: LayerConfig) -> bool:
    """Norms of both parts, beside each other."""
    return layer.parallel and layer.mlp_norms.before is not None


def _rules(layer: str, names: Mapping[str, str], qkv: SplitGroups | Any) -> tuple[Rule, ...]:
    at = "layers.{i}."
    return (
        Rule(layer + names["qkv"] + ".weight", qkv_names("weight"), (qkv,)),
        Rule(layer + names["qkv"] + ".bias", qkv_names("bias"), (qkv,)),
        *both(layer + names["o"], at + "attention.o_proj"),
        *both(layer + names["up"], at + "mlp.up_proj"),
        *both(layer + names["down"], at + "mlp.down_proj"),
    )


_AT, _OURS = "transformer.h.{i}.", "layers.{i}."
WEIGHTS = (
    Rule("transformer.word_embeddings.weight", "embed.weight"),
    *both(_AT + "input_layernorm", _OURS + "attention_norm", when=lambda layer: not _has_two(layer)),
    *both(_AT + "post_attention_layernorm", _OURS + "mlp_norm", when=lambda layer: not layer.parallel),
    *both(_AT + "ln_attn", _OURS + "attention_norm", when=_has_two),
    *both(_AT + "ln_mlp", _OURS + "mlp_norm", when=_has_two),
    *_rules(
        _AT,
        {
            "qkv": "self_attention.query_key_value",
            "o": "self_attention.dense",
            "up": "mlp.dense_h_to_4h",
            "down": "mlp.dense_4h_to_h",
        },
        SplitGroups(),
    ),
    *both("transformer.ln_f", "final_norm"),
    *both("lm_head", "lm_head"),
)
IGNORED = ("*.rotary_emb.inv_freq",)


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    """llama.cpp runs the parallel kinds: one norm (7B) or two (40B: ``attn_norm_2`` is then attention's)."""
    heads, kv_heads = metadata.needed("falcon.attention.head_count"), metadata.needed("falcon.attention.head_count_kv")
    two = "blk.0.attn_norm_2.weight" in tensors
    return {
        "model_type": "falcon",
        "vocab_size": vocab_size(metadata, tensors),
        "hidden_size": metadata.needed("falcon.embedding_length"),
        "num_attention_heads": heads,
        "num_kv_heads": kv_heads,
        "num_hidden_layers": metadata.needed("falcon.block_count"),
        "max_position_embeddings": metadata.needed("falcon.context_length"),
        "ffn_hidden_size": metadata.needed("falcon.feed_forward_length"),
        "layer_norm_epsilon": metadata.needed("falcon.attention.layer_norm_epsilon"),
        "rope_theta": metadata.scalar("falcon.rope.freq_base", 10000.0),
        "new_decoder_architecture": two or kv_heads != 1,
        "num_ln_in_parallel_attn": 2 if two else 1,
        "multi_query": True,
        "tie_word_embeddings": "output.weight" not in tensors,
        **special_tokens(metadata),
    }


_BLK = "blk.{i}."
GGUF = GGUF(
    architecture="falcon",
    hf=gguf_hf,
    weights=(
        Rule("token_embd.weight", "embed.weight"),
        *both(_BLK + "attn_norm", _OURS + "attention_norm", when=lambda layer: not _has_two(layer)),
        *both(_BLK + "attn_norm", _OURS + "mlp_norm", when=_has_two),
        *both(_BLK + "attn_norm_2", _OURS + "attention_norm", when=_has_two),
        *_rules(_BLK, {"qkv": "attn_qkv", "o": "attn_output", "up": "ffn_up", "down": "ffn_down"}, SPLIT_QKV),
        *both("output_norm", "final_norm"),
        Rule("output.weight", "lm_head.weight"),
    ),
)

TINY = {
    "model_type": "falcon",
    "vocab_size": 96,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "ffn_hidden_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "groups": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "groups_one_norm": {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    "multi_head": {"multi_query": False},
    "in_sequence": {"parallel_attn": False},
    "bias": {"bias": True},
    "untied": {"tie_word_embeddings": False},
    "rope_theta": {"rope_theta": 500.0},
}
