"""*Attention Is All You Need*: the transformer of Vaswani and others (2017), decoder-only.

Sinusoidal positions: PE(pos, 2i) = sin(pos / 10000^(2i/d_model)), PE(pos, 2i+1) = cos(…), added to embeddings that are
scaled by √d_model; multi-head softmax attention; ReLU (or GELU) between two linear maps; LayerNorm with bias, after
each residual sum (``post``, the paper) or before each part (``pre``, GPT-2's order, with a final norm). Its config keys
are Pellucid's own words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pellucid.base.errors import ConfigError
from pellucid.config import AttentionConfig, LayerConfig, MLPConfig, ModelConfig, NormConfig, PartNorms
from pellucid.families.translation.hf import Keys, one_or_many
from pellucid.families.translation.rules import Rule


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    d_model, num_heads = keys.size("d_model", 512), keys.size("num_heads", 8)
    bias = keys.switch("bias", True)
    norm = NormConfig(kind="layer", eps=keys.get("norm_eps", 1e-5), bias=bias)
    attention = AttentionConfig(
        num_heads=num_heads, num_kv_heads=num_heads, head_dim=max(d_model // num_heads, 1), qkv_bias=bias, o_bias=bias
    )
    mlp = MLPConfig(
        d_ff=keys.size("d_ff", 4 * d_model), activation=keys.activation("activation", "relu"), gated=False, bias=bias
    )
    order = keys.get("norm_order", "post")
    if order not in ("post", "pre"):
        raise ConfigError("norm_order is unknown", where=keys.where, expected="post or pre", received=repr(order))
    norms = PartNorms(sum=norm) if order == "post" else PartNorms(before=norm)
    return ModelConfig(
        model_type="vanilla",
        vocab_size=keys.size("vocab_size"),
        d_model=d_model,
        context_len=keys.size("context_len", 512),
        layers=(LayerConfig(mixer=attention, mlp=mlp, mixer_norms=norms, mlp_norms=norms),)
        * keys.num_layers("num_layers"),
        final_norm=norm if order == "pre" else None,
        position="sinusoidal",
        embedding_scale=math.sqrt(d_model) if keys.get("scale_embedding", True) else 1.0,
        **keys.common(tied=False),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer = config.layers[0]
    norm = next(iter(layer.norms.values()))
    return {
        **config.extra,
        "model_type": "vanilla",
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "num_heads": layer.mixer.num_heads,
        "num_layers": config.num_layers,
        "d_ff": layer.mlp.d_ff,
        "context_len": config.context_len,
        "activation": layer.mlp.activation,
        "norm_order": "post" if layer.mixer_norms.sum else "pre",
        "norm_eps": norm.eps,
        "bias": norm.bias,
        "scale_embedding": config.embedding_scale != 1.0,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_many(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }


_PARTS = (
    "attention_norm",
    "attention.q_proj",
    "attention.k_proj",
    "attention.v_proj",
    "attention.o_proj",
    "mlp_norm",
    "mlp.up_proj",
    "mlp.down_proj",
)
_NAMES = ("embed", *(f"layers.{{i}}.{part}" for part in _PARTS), "final_norm", "lm_head")
_SUMS = tuple(  # a norm has one name, wherever it stands
    Rule(f"layers.{{i}}.{part}_norm.{kind}", f"layers.{{i}}.{part}_sum_norm.{kind}")
    for part in ("attention", "mlp")
    for kind in ("weight", "bias")
)
WEIGHTS = (*(Rule(name, name) for stem in _NAMES for name in (f"{stem}.weight", f"{stem}.bias")), *_SUMS)
IGNORED = ()
GGUF = None

TINY = {
    "model_type": "vanilla",
    "vocab_size": 96,
    "d_model": 32,
    "num_heads": 4,
    "num_layers": 2,
    "d_ff": 64,
    "context_len": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "pre": {"norm_order": "pre"},
    "gelu": {"activation": "gelu"},
    "no_bias": {"bias": False},
    "unscaled": {"scale_embedding": False},
    "tied": {"tie_word_embeddings": True},
}
