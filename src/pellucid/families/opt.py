"""OPT: GPT-2's shape with q, k and v apart and ReLU; norms before each part, or after each sum (350M).

The table of positions has two rows before the first place, of which nothing is read. Files whose embeddings have
another width than the layers (350M) are refused. Source: Zhang et al. 2022; transformers models/opt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config import AttentionConfig, LayerConfig, MLPConfig, ModelConfig, NormConfig, PartNorms
from pellucid.families.translation.hf import Keys, one_or_many
from pellucid.families.translation.rules import DropRows, Rule, both


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    d_model, num_heads = keys.size("hidden_size", 768), keys.size("num_attention_heads", 12)
    keys.only("word_embed_proj_dim", d_model)
    keys.only("layer_norm_elementwise_affine", True)
    keys.only("_remove_final_layer_norm", False)
    bias, before = keys.switch("enable_bias", True), keys.switch("do_layer_norm_before", True)
    norm = NormConfig(kind="layer", bias=True)
    norms = PartNorms(before=norm) if before else PartNorms(sum=norm)
    activation = keys.activation("activation_function", "relu")
    mlp = MLPConfig(d_ff=keys.size("ffn_dim", 3072), activation=activation, gated=False, bias=bias)
    attention = AttentionConfig(
        num_heads=num_heads, num_kv_heads=num_heads, head_dim=max(d_model // num_heads, 1), qkv_bias=bias, o_bias=bias
    )
    return ModelConfig(
        model_type="opt",
        vocab_size=keys.size("vocab_size", 50272),
        d_model=d_model,
        context_len=keys.size("max_position_embeddings", 2048),
        layers=(LayerConfig(mixer=attention, mlp=mlp, mixer_norms=norms, mlp_norms=norms),)
        * keys.num_layers("num_hidden_layers"),
        final_norm=norm if before else None,
        position="learned",
        **keys.common(tied=True),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer = config.layers[0]
    return {
        **config.extra,
        "model_type": "opt",
        "architectures": ["OPTForCausalLM"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "word_embed_proj_dim": config.d_model,
        "num_attention_heads": layer.mixer.num_heads,
        "num_hidden_layers": config.num_layers,
        "max_position_embeddings": config.context_len,
        "ffn_dim": layer.mlp.d_ff,
        "activation_function": {"gelu_tanh": "gelu_new"}.get(layer.mlp.activation, layer.mlp.activation),
        "enable_bias": layer.mixer.qkv_bias,
        "do_layer_norm_before": layer.mixer_norms.sum is None,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_many(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }


_AT, _OURS = "model.decoder.layers.{i}.", "layers.{i}."
WEIGHTS = (
    Rule("model.decoder.embed_tokens.weight", "embed.weight"),
    Rule("model.decoder.embed_positions.weight", "pos_embed.weight", (DropRows(2),)),
    *both(_AT + "self_attn_layer_norm", _OURS + "attention_norm"),
    *both(_AT + "self_attn_layer_norm", _OURS + "attention_sum_norm"),
    *both(_AT + "self_attn.q_proj", _OURS + "attention.q_proj"),
    *both(_AT + "self_attn.k_proj", _OURS + "attention.k_proj"),
    *both(_AT + "self_attn.v_proj", _OURS + "attention.v_proj"),
    *both(_AT + "self_attn.out_proj", _OURS + "attention.o_proj"),
    *both(_AT + "final_layer_norm", _OURS + "mlp_norm"),
    *both(_AT + "final_layer_norm", _OURS + "mlp_sum_norm"),
    *both(_AT + "fc1", _OURS + "mlp.up_proj"),
    *both(_AT + "fc2", _OURS + "mlp.down_proj"),
    *both("model.decoder.final_layer_norm", "final_norm"),
    Rule("lm_head.weight", "lm_head.weight"),
)
IGNORED = ()
GGUF = None

TINY = {
    "model_type": "opt",
    "vocab_size": 96,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "ffn_dim": 48,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "post": {"do_layer_norm_before": False},
    "no_bias": {"enable_bias": False},
    "gelu": {"activation_function": "gelu"},
    "untied": {"tie_word_embeddings": False},
}
