"""What the C program computes: the fields of a description that ``program`` writes into it, and nothing else.

Sizes and kinds are constants of the program, so layers are alike in them; weights, windows, scales and rotary
frequencies lie in tables that have a row a layer.
"""

from __future__ import annotations

from typing import Any

from pellucid.claims import ALIKE, ANY, UNREAD, Claim, Claims, one_of
from pellucid.config import (
    AttentionConfig,
    LayerConfig,
    MLPConfig,
    ModelConfig,
    NormConfig,
    PartNorms,
    RopeConfig,
    RopeScaling,
)


def _alone_where_by_length(kind: Any, scaling: Any, config: ModelConfig) -> bool:
    """Frequencies that go by the request's length are in the program's text, once."""
    return not scaling.by_length or len(config.ropes) == 1


_THERE = Claim(test=lambda value, part, config: value is not None, words="it runs layers that have both parts")
_POSITIVE = Claim(test=lambda value, part, config: value is None or value > 0, words="it runs positive ones")

NATIVE = Claims(
    "native",
    {
        ModelConfig: {
            "model_type": UNREAD,
            "vocab_size": ANY,
            "d_model": ANY,
            "context_len": ANY,
            "layers": ANY,
            "final_norm": ANY,
            "position": one_of("none", "learned", "sinusoidal"),
            "embedding_scale": ANY,
            "tie_embeddings": ANY,
            "head_bias": ANY,
            "logit_scale": ANY,
            "logit_softcap": _POSITIVE,
            "bos_token_id": UNREAD,
            "eos_token_ids": UNREAD,
            "pad_token_id": UNREAD,
            "dtype": UNREAD,
            "extra": UNREAD,
        },
        LayerConfig: {
            "mixer": _THERE,
            "mlp": _THERE,
            "mixer_norms": ANY,
            "mlp_norms": ANY,
            "experts": one_of(None),
            "parallel": ALIKE,
            "residual_scale": ALIKE,
        },
        AttentionConfig: {
            "num_heads": ALIKE,
            "num_kv_heads": ALIKE,
            "head_dim": ALIKE,
            "qkv_bias": ANY,
            "o_bias": ANY,
            "qk_norm": ALIKE,
            "qk_norm_over": one_of("head", "all", alike=True),
            "qk_norm_at": one_of("before", "after", alike=True),
            "rope": ANY,
            "window": ANY,
            "scale": ANY,
            "softcap": Claim(alike=True, test=_POSITIVE.test, words=_POSITIVE.words),
        },
        RopeConfig: {
            "dim": ALIKE,
            "theta": ANY,
            "layout": one_of("half", "interleaved", alike=True),
            "scaling": ANY,
        },
        RopeScaling: {
            "kind": Claim(
                ("linear", "dynamic", "llama3", "yarn", "longrope", "factors"),
                test=_alone_where_by_length,
                words="it runs a scaling by length where all layers rotate alike",
            ),
            "factor": ANY,
            "original_context_len": ANY,
            "attention_factor": ANY,
            "low_freq_factor": ANY,
            "high_freq_factor": ANY,
            "beta_fast": ANY,
            "beta_slow": ANY,
            "mscale": ANY,
            "mscale_all_dim": ANY,
            "truncate": ANY,
            "short_factors": ANY,
            "long_factors": ANY,
        },
        PartNorms: {"before": ALIKE, "after": ALIKE, "sum": ALIKE},
        NormConfig: {"kind": one_of("layer", "rms"), "eps": ANY, "bias": ANY, "offset": ANY, "wide": UNREAD},
        MLPConfig: {
            "d_ff": ALIKE,
            "activation": one_of("silu", "gelu", "gelu_tanh", "relu", "relu2", alike=True),
            "gated": ALIKE,
            "bias": ANY,
        },
    },
)


def supports(config: ModelConfig) -> str | None:
    """The field that this executor does not run, and why; None where it runs the model."""
    refusal = NATIVE.refusal(config)
    return None if refusal is None else str(refusal)
