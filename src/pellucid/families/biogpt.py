"""BioGPT: OPT's shape with GELU and embeddings scaled by √d_model. Source: Luo et al. 2022; transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pellucid.config import AttentionConfig, LayerConfig, MLPConfig, ModelConfig, NormConfig, PartNorms
from pellucid.families import opt
from pellucid.families.translation.hf import Keys, one_or_many
from pellucid.families.translation.rules import renamed

HARMLESS = ("layer_norm_eps",)  # the code has 1e-5, whatever the file says


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    d_model, num_heads = keys.size("hidden_size", 1024), keys.size("num_attention_heads", 16)
    norm = NormConfig(kind="layer", bias=True)
    mlp = MLPConfig(
        d_ff=keys.size("intermediate_size", 4096),
        activation=keys.activation("hidden_act", "gelu"),
        gated=False,
        bias=True,
    )
    attention = AttentionConfig(
        num_heads=num_heads, num_kv_heads=num_heads, head_dim=max(d_model // num_heads, 1), qkv_bias=True, o_bias=True
    )
    layer = LayerConfig(mixer=attention, mlp=mlp, mixer_norms=PartNorms(before=norm), mlp_norms=PartNorms(before=norm))
    return ModelConfig(
        model_type="biogpt",
        vocab_size=keys.size("vocab_size", 42384),
        d_model=d_model,
        context_len=keys.size("max_position_embeddings", 1024),
        layers=(layer,) * keys.num_layers("num_hidden_layers"),
        final_norm=norm,
        position="learned",
        embedding_scale=math.sqrt(d_model) if keys.get("scale_embedding", True) else 1.0,
        **keys.common(tied=True),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer = config.layers[0]
    return {
        **config.extra,
        "model_type": "biogpt",
        "architectures": ["BioGptForCausalLM"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_attention_heads": layer.mixer.num_heads,
        "num_hidden_layers": config.num_layers,
        "max_position_embeddings": config.context_len,
        "intermediate_size": layer.mlp.d_ff,
        "hidden_act": {"gelu_tanh": "gelu_new"}.get(layer.mlp.activation, layer.mlp.activation),
        "scale_embedding": config.embedding_scale != 1.0,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_many(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }


WEIGHTS = renamed(
    opt.WEIGHTS,
    {
        "model.decoder.final_layer_norm": "biogpt.layer_norm",
        "model.decoder.": "biogpt.",
        "lm_head": "output_projection",
    },
)
IGNORED = ()
GGUF = None

TINY = {
    "model_type": "biogpt",
    "vocab_size": 96,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "unscaled": {"scale_embedding": False},
    "relu": {"hidden_act": "relu"},
}
