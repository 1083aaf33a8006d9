"""MPT: ALiBi, LayerNorm without bias and no other bias either; q, k and v may be clipped.

Source: MosaicML's llm-foundry; transformers models/mpt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import AttentionConfig, LayerConfig, MLPConfig, ModelConfig, NormConfig, PartNorms
from pellucid.families.translation.gguf import GGUF, special_tokens, vocab_size
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, one_or_many
from pellucid.families.translation.rules import SPLIT_QKV, Rule, both, qkv_names

# Training, and what the model's code never reads beside ALiBi.
HARMLESS = ("learned_pos_emb", "norm_type", "init_device", "embedding_fraction", "emb_pdrop", "resid_pdrop", "verbose")
ATTENTION_HARMLESS = ("attn_impl", "attn_pdrop", "attn_type", "model_type", "base_config_key")


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    keys.only("no_bias", True)
    keys.only("logit_scale", None)
    d_model, num_heads = keys.size("d_model", 2048), keys.size("n_heads", 16)
    told = keys.part("attn_config")
    asked = Keys(hf.get("attn_config") or {}, ATTENTION_HARMLESS, told.where if told else keys.where)
    asked.only("attn_type", "multihead_attention")
    asked.only("alibi", True)
    for mechanism in ("prefix_lm", "qk_ln", "attn_uses_sequence_id"):
        asked.only(mechanism, False)
    attention = AttentionConfig(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=max(d_model // num_heads, 1),
        clip=asked.get("clip_qkv") or None,
        scale=asked.get("softmax_scale"),
        alibi=float(asked.get("alibi_bias_max", 8)),
    )
    asked.rest()
    norm = NormConfig(kind="layer", eps=keys.get("layer_norm_epsilon", 1e-5))
    mlp = MLPConfig(d_ff=keys.size("expansion_ratio", 4) * d_model, activation="gelu", gated=False)
    norms = PartNorms(before=norm)
    return ModelConfig(
        model_type="mpt",
        vocab_size=keys.size("vocab_size", 50368),
        d_model=d_model,
        context_len=keys.size("max_seq_len", 2048),
        layers=(LayerConfig(mixer=attention, mlp=mlp, mixer_norms=norms, mlp_norms=norms),)
        * keys.num_layers("n_layers"),
        final_norm=norm,
        **keys.common(tied=True),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer = config.layers[0]
    assert config.final_norm
    return {
        **config.extra,
        "model_type": "mpt",
        "architectures": ["MptForCausalLM"],
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "n_heads": layer.mixer.num_heads,
        "n_layers": config.num_layers,
        "max_seq_len": config.context_len,
        "expansion_ratio": layer.mlp.d_ff // config.d_model,
        "layer_norm_epsilon": config.final_norm.eps,
        "attn_config": {
            "alibi": True,
            "alibi_bias_max": int(layer.mixer.alibi or 8),
            "clip_qkv": layer.mixer.clip,
            "softmax_scale": layer.mixer.scale,
        },
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_many(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }


def _rules(layer: str, *names: str) -> tuple[Rule, ...]:
    at, ours = "layers.{i}.", ("attention_norm", "", "attention.o_proj", "mlp_norm", "mlp.up_proj", "mlp.down_proj")
    return tuple(
        Rule(f"{layer}{name}.weight", f"{at}{own}.weight")
        if own
        else Rule(f"{layer}{name}.weight", qkv_names("weight"), (SPLIT_QKV,))
        for name, own in zip(names, ours, strict=True)
    )


WEIGHTS = (
    Rule("transformer.wte.weight", "embed.weight"),
    *_rules(
        "transformer.blocks.{i}.", "norm_1", "attn.Wqkv", "attn.out_proj", "norm_2", "ffn.up_proj", "ffn.down_proj"
    ),
    *both("transformer.norm_f", "final_norm"),
    Rule("lm_head.weight", "lm_head.weight"),
)
IGNORED = ()


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    clip, d_model = metadata.scalar("mpt.attention.clamp_kqv"), metadata.needed("mpt.embedding_length")
    return {
        "model_type": "mpt",
        "vocab_size": vocab_size(metadata, tensors),
        "d_model": d_model,
        "n_heads": metadata.needed("mpt.attention.head_count"),
        "n_layers": metadata.needed("mpt.block_count"),
        "max_seq_len": metadata.needed("mpt.context_length"),
        "expansion_ratio": metadata.needed("mpt.feed_forward_length") // d_model,
        "layer_norm_epsilon": metadata.needed("mpt.attention.layer_norm_epsilon"),
        "attn_config": {
            "alibi_bias_max": metadata.needed("mpt.attention.max_alibi_bias"),
            **({"clip_qkv": clip} if clip else {}),
        },
        "tie_word_embeddings": "output.weight" not in tensors,
        **special_tokens(metadata),
    }


GGUF = GGUF(
    architecture="mpt",
    hf=gguf_hf,
    weights=(
        Rule("token_embd.weight", "embed.weight"),
        *_rules("blk.{i}.", "attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"),
        *both("output_norm", "final_norm"),
        Rule("output.weight", "lm_head.weight"),
    ),
)

TINY = {
    "model_type": "mpt",
    "vocab_size": 96,
    "d_model": 32,
    "n_heads": 4,
    "n_layers": 2,
    "max_seq_len": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "clipped": {"attn_config": {"clip_qkv": 0.05}},
    "scaled": {"attn_config": {"softmax_scale": 0.5}},
    "six_heads": {"n_heads": 6, "d_model": 48},
    "untied": {"tie_word_embeddings": False},
}
