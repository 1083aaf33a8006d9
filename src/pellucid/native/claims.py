"""What the C program computes: the fields of a description that ``program`` writes into it, and nothing else.

Layers may differ in everything: each kind of them has functions of its own (``kinds``), where sizes are constants.
"""

from __future__ import annotations

from typing import Any

from pellucid.claims import ANY, UNREAD, Claim, Claims, one_of
from pellucid.config import (
    AttentionConfig,
    DeltaNetConfig,
    ExpertsConfig,
    LatentAttentionConfig,
    LayerConfig,
    Mamba2Config,
    MambaConfig,
    MLPConfig,
    ModelConfig,
    NormConfig,
    PartNorms,
    QueryScale,
    RopeConfig,
    RopeScaling,
    ShortConvConfig,
)
from pellucid.native.kinds import MAX_KINDS, few_kinds
from pellucid.native.parts import ACTIVATIONS, SCORES


def _alone_where_by_length(kind: Any, scaling: Any, config: ModelConfig) -> bool:
    """Frequencies that go by the request's length are in the program's text, once."""
    return not scaling.by_length or len(config.ropes) == 1


def _few_kinds(layers: Any, part: Any, config: ModelConfig) -> bool:
    return few_kinds(config)


def _in_parts(groups: Any, norm: Any, config: ModelConfig) -> bool:
    """Only the norms of state spaces are of parts."""
    others = [config.final_norm, config.embedding_norm]
    for layer in config.layers:
        others += layer.norms.values()
        if not isinstance(layer.mixer, MambaConfig | Mamba2Config):
            others += [getattr(layer.mixer, name, None) for name in ("qk_norm", "latent_norm", "norm")]
    return groups == 1 or not any(other is norm for other in others)


CONV_ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2")
_POSITIVE = Claim(test=lambda value, part, config: value is None or value > 0, words="it runs positive ones")

NATIVE = Claims(
    "native",
    {
        ModelConfig: {
            "model_type": UNREAD,
            "vocab_size": ANY,
            "d_model": ANY,
            "context_len": ANY,
            "layers": Claim(test=_few_kinds, words=f"it runs at most {MAX_KINDS} kinds of layers"),
            "final_norm": ANY,
            "position": one_of("none", "learned", "sinusoidal"),
            "wide_stream": UNREAD,
            "embedding_scale": ANY,
            "embedding_norm": ANY,
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
            "mixer": ANY,
            "mlp": ANY,
            "mixer_norms": ANY,
            "mlp_norms": ANY,
            "experts": ANY,
            "parallel": ANY,
            "residual_scale": ANY,
        },
        AttentionConfig: {
            "num_heads": ANY,
            "num_kv_heads": ANY,
            "head_dim": ANY,
            "qkv_bias": ANY,
            "o_bias": ANY,
            "qk_norm": ANY,
            "qk_norm_over": one_of("head", "all"),
            "qk_norm_at": one_of("before", "after"),
            "rope": ANY,
            "window": ANY,
            "chunk": ANY,
            "scale": ANY,
            "softcap": _POSITIVE,
            "clip": ANY,
            "alibi": ANY,
            "sinks": ANY,
            "query_scale": ANY,
            "v_head_dim": ANY,
            "v_scale": ANY,
            "gated": ANY,
        },
        LatentAttentionConfig: {
            "num_heads": ANY,
            "kv_lora_rank": ANY,
            "qk_nope_head_dim": ANY,
            "qk_rope_head_dim": ANY,
            "v_head_dim": ANY,
            "q_lora_rank": ANY,
            "latent_norm": ANY,
            "latent_bias": ANY,
            "o_bias": ANY,
            "rope": ANY,
            "window": ANY,
            "scale": ANY,
        },
        DeltaNetConfig: {
            "num_heads": ANY,
            "num_key_heads": ANY,
            "key_head_dim": ANY,
            "value_head_dim": ANY,
            "conv_width": ANY,
            "norm": ANY,
            "gate": one_of("silu", "sigmoid"),
            "decay_by": one_of("head", "channel"),
            "decay_rank": ANY,
            "gate_rank": ANY,
            "beta_scale": ANY,
        },
        MambaConfig: {
            "channels": ANY,
            "state_size": ANY,
            "dt_rank": ANY,
            "width": ANY,
            "conv_bias": ANY,
            "bias": ANY,
            "activation": one_of(*CONV_ACTIVATIONS),
            "inner_norm": ANY,
        },
        Mamba2Config: {
            "num_heads": ANY,
            "head_dim": ANY,
            "state_size": ANY,
            "num_groups": ANY,
            "width": ANY,
            "conv_bias": ANY,
            "bias": ANY,
            "o_bias": ANY,
            "activation": one_of(*CONV_ACTIVATIONS),
            "dt_min": ANY,
            "dt_max": ANY,
            "norm": ANY,
            "norm_at": one_of("after", "before"),
            "scales": ANY,
        },
        ShortConvConfig: {"channels": ANY, "width": ANY, "bias": ANY},
        RopeConfig: {
            "dim": ANY,
            "theta": ANY,
            "layout": one_of("half", "interleaved"),
            "scaling": ANY,
            "pairs": ANY,
            "wide": UNREAD,
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
        PartNorms: {"before": ANY, "after": ANY, "sum": ANY},
        NormConfig: {
            "kind": one_of("layer", "rms"),
            "eps": ANY,
            "weight": ANY,
            "bias": ANY,
            "offset": ANY,
            "groups": Claim(test=_in_parts, words="it norms in parts what state spaces make"),
            "wide": UNREAD,
        },
        QueryScale: {"beta": ANY, "every": ANY, "offset": ANY},
        ExpertsConfig: {
            "num_experts": ANY,
            "experts_per_token": ANY,
            "scores": one_of(*SCORES),
            "router_bias": ANY,
            "correction_bias": ANY,
            "num_groups": ANY,
            "groups_per_token": ANY,
            "group_score": one_of("top2", "max"),
            "normalize": ANY,
            "normalize_eps": ANY,
            "scale": ANY,
            "weighs": one_of("output", "input"),
            "jitter": ANY,
            "wide": UNREAD,
            "shared": ANY,
            "shared_gated": ANY,
        },
        MLPConfig: {
            "d_ff": ANY,
            "activation": one_of(*ACTIVATIONS),
            "gated": ANY,
            "bias": ANY,
            "alpha": ANY,
            "limit": ANY,
            "up_offset": ANY,
        },
    },
)


def supports(config: ModelConfig) -> str | None:
    """The field that this executor does not run, and why; None where it runs the model."""
    refusal = NATIVE.refusal(config)
    return None if refusal is None else str(refusal)
