"""DBRX: Mixtral's shape under LayerNorm without biases; q, k and v cut off beyond a bound, every expert in one matrix.

Source: Databricks 2024 (*DBRX*); transformers models/dbrx. θ is in attn_config where rope_parameters do not say it, as
Databricks' code has it and its files mean it; transformers 5 passes over that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.config import AttentionConfig, ExpertsConfig, LayerConfig, MLPConfig, ModelConfig, NormConfig, PartNorms
from pellucid.families.translation.experts import a_sparse_layer
from pellucid.families.translation.gguf import EXPERT_RULES, GGUF, special_tokens, vocab_size
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, one_or_many, rope, rope_to_hf
from pellucid.families.translation.rules import SPLIT_QKV, EachExpert, Rule, Transpose, both, qkv_names

PARTS = {"gate_proj": "w1", "up_proj": "v1", "down_proj": "w2"}
NORMALIZES = "moe_normalize_expert_weights"  # the norm that the chosen ones' weights are divided by: their sum, or none
OWN = ("model_type", "base_config_key", "attn_pdrop", "moe_loss_weight", "moe_jitter_eps", "hidden_size")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    d_model, num_heads = keys.size("d_model", 2048), keys.size("n_heads", 16)
    context_len = keys.size("max_seq_len", 2048)
    parts = {name: keys.part(name) for name in ("attn_config", "ffn_config")}  # refused where they are no objects
    asked, thinks = (Keys(hf[name] if part else {}, OWN, f"{keys.where}: {name}") for name, part in parts.items())
    activation = thinks.get("ffn_act_fn") or {"name": "silu"}
    thinks.only(NORMALIZES, None, 1, 1.0)
    attention = AttentionConfig(
        num_heads=num_heads,
        num_kv_heads=asked.size("kv_n_heads", 1),
        head_dim=max(d_model // num_heads, 1),
        clip=asked.get("clip_qkv"),
        rope=rope(keys, max(d_model // num_heads, 1), context_len, default_theta=asked.get("rope_theta", 10000.0)),
    )
    experts = ExpertsConfig(
        num_experts=thinks.size("moe_num_experts", 4),
        experts_per_token=thinks.size("moe_top_k", 1),
        normalize=not thinks.has(NORMALIZES) or thinks.get(NORMALIZES) is not None,
    )
    mlp = MLPConfig(
        d_ff=thinks.size("ffn_hidden_size", 3584),
        activation=Keys(activation, where=thinks.where).activation("name", "silu"),
    )
    for part in (asked, thinks):
        part.rest()
    keys.only("num_key_value_heads", attention.num_kv_heads)  # transformers writes it once more
    norm = NormConfig(kind="layer", eps=1e-5)
    norms = PartNorms(before=norm)
    layer = LayerConfig(mixer=attention, mlp=mlp, mixer_norms=norms, mlp_norms=norms, experts=experts)
    return ModelConfig(
        model_type="dbrx",
        vocab_size=keys.size("vocab_size", 32000),
        d_model=d_model,
        context_len=context_len,
        layers=(layer,) * keys.num_layers("n_layers"),
        final_norm=norm,
        **keys.common(tied=False),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer, experts = a_sparse_layer(config)
    attention, turned = layer.mixer, rope_to_hf(layer.mixer.rope)
    return {
        **config.extra,
        "model_type": "dbrx",
        "architectures": ["DbrxForCausalLM"],
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "n_heads": attention.num_heads,
        "n_layers": config.num_layers,
        "max_seq_len": config.context_len,
        "attn_config": {
            "kv_n_heads": attention.num_kv_heads,
            "clip_qkv": attention.clip,
            "rope_theta": turned["rope_theta"],
        },
        "rope_parameters": {
            "rope_type": "default",
            **(turned["rope_scaling"] or {}),
            "rope_theta": turned["rope_theta"],
        },
        "ffn_config": {
            "ffn_hidden_size": layer.mlp.d_ff,
            "ffn_act_fn": {"name": {"gelu_tanh": "gelu_pytorch_tanh"}.get(layer.mlp.activation, layer.mlp.activation)},
            "moe_num_experts": experts.num_experts,
            "moe_top_k": experts.experts_per_token,
            "moe_normalize_expert_weights": 1.0 if experts.normalize else None,
        },
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_many(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }


_AT, _OURS = "transformer.blocks.{i}.", "layers.{i}."
WEIGHTS = (
    Rule("transformer.wte.weight", "embed.weight"),
    Rule(_AT + "norm_attn_norm.norm_1.weight", _OURS + "attention_norm.weight"),
    Rule(_AT + "norm_attn_norm.attn.Wqkv.weight", qkv_names("weight"), (SPLIT_QKV,)),
    Rule(_AT + "norm_attn_norm.attn.out_proj.weight", _OURS + "attention.o_proj.weight"),
    Rule(_AT + "norm_attn_norm.norm_2.weight", _OURS + "mlp_norm.weight"),
    Rule(_AT + "ffn.router.layer.weight", _OURS + "mlp.router.weight"),
    *(
        Rule(
            f"{_AT}ffn.experts.mlp.{theirs}",
            f"{_OURS}mlp.experts.{{e}}.{ours}.weight",
            (EachExpert(Transpose() if ours == "down_proj" else None),),
        )
        for ours, theirs in PARTS.items()
    ),
    *both("transformer.norm_f", "final_norm"),
    Rule("lm_head.weight", "lm_head.weight"),
)
IGNORED = ("*.rotary_emb.inv_freq",)


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    needed, scalar = (lambda name: metadata.needed(f"dbrx.{name}")), metadata.scalar
    metadata.expect("dbrx.attention.layer_norm_epsilon", float(np.float32(1e-5)), "its norms have one epsilon")
    return {
        "model_type": "dbrx",
        "vocab_size": vocab_size(metadata, tensors),
        "d_model": needed("embedding_length"),
        "n_heads": needed("attention.head_count"),
        "n_layers": needed("block_count"),
        "max_seq_len": needed("context_length"),
        "attn_config": {
            "kv_n_heads": needed("attention.head_count_kv"),
            "clip_qkv": scalar("dbrx.attention.clamp_kqv") or None,
            "rope_theta": scalar("dbrx.rope.freq_base", 10000.0),
        },
        "ffn_config": {
            "ffn_hidden_size": needed("feed_forward_length"),
            "moe_num_experts": needed("expert_count"),
            "moe_top_k": needed("expert_used_count"),
            "moe_normalize_expert_weights": 1.0,
        },
        "tie_word_embeddings": "output.weight" not in tensors,
        **special_tokens(metadata),
    }


_BLK = "blk.{i}."
GGUF = GGUF(
    architecture="dbrx",
    experts=True,
    needs=("output.weight",),
    square=True,
    hf=gguf_hf,
    weights=(
        Rule("token_embd.weight", "embed.weight"),
        Rule(_BLK + "attn_norm.weight", _OURS + "attention_norm.weight"),
        Rule(_BLK + "attn_qkv.weight", qkv_names("weight"), (SPLIT_QKV,)),
        Rule(_BLK + "attn_output.weight", _OURS + "attention.o_proj.weight"),
        Rule(_BLK + "attn_output_norm.weight", _OURS + "mlp_norm.weight"),
        *EXPERT_RULES,
        Rule("output_norm.weight", "final_norm.weight"),
        Rule("output.weight", "lm_head.weight"),
    ),
    for_others=False,
)

TINY = {
    "model_type": "dbrx",
    "vocab_size": 96,
    "d_model": 32,
    "n_heads": 4,
    "n_layers": 2,
    "max_seq_len": 64,
    "attn_config": {"kv_n_heads": 2, "clip_qkv": 0.5, "rope_theta": 10000.0},
    "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 8, "moe_top_k": 3},
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "one_head": {"attn_config": {"kv_n_heads": 1, "clip_qkv": 2.0, "rope_theta": 10000.0}},
    "unnormalized": {
        "ffn_config": {
            "ffn_hidden_size": 24,
            "moe_num_experts": 8,
            "moe_top_k": 2,
            "moe_normalize_expert_weights": None,
        }
    },
    "rope_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
}
