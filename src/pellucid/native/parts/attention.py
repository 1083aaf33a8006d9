"""Attention as a function of the program."""

from __future__ import annotations

from pellucid.config import AttentionConfig, ModelConfig
from pellucid.native.kinds import Kinds, Part, heads_of
from pellucid.native.layout import Layout
from pellucid.native.parts.text import beginning, biases, numbers, output
from pellucid.native.writing import filled, norm, real, scaled


def attention(config: ModelConfig, layout: Layout, kinds: Kinds, part: Part) -> str:
    mixer = part.layer.mixer
    assert isinstance(mixer, AttentionConfig)
    after = mixer.qk_norm_at == "after" and mixer.qk_norm is not None
    by_head = mixer.qk_norm_over == "head"
    mixers = [config.layers[i].mixer for i in part.layers]
    heads = heads_of(mixer)
    assert heads is not None
    growth = mixer.query_scale
    values = {
        **beginning(config, part),
        "heads": kinds.heads.index(heads),
        "q_dim": mixer.q_dim,
        "k_dim": mixer.kv_dim,
        "v_dim": heads.num_kv_heads * heads.value_dim,
        "z_dim": heads.num_heads * heads.value_dim,
        **biases(layout, part, "attention", ("q", "k", "v")),
        "v_scale": scaled(mixer.v_scale),
        "gate_form": " | form_for(layer->z_gate_proj.format)" if mixer.gated else "",
        "z_gate_bias": numbers(layout, part, "attention.gate_proj.bias"),
        "num_maps": 4 if mixer.gated else 3,
        "chunk": "layer->chunk" if any(one.chunk for one in mixers if isinstance(one, AttentionConfig)) else "INT_MAX",
        "sinks": numbers(layout, part, "attention.sinks"),
        "sinks_too": ", and a score of the head's own" if mixer.sinks else "",
        "beta": real(growth.beta) if growth else "",
        "every": growth.every if growth else "",
        "offset": growth.offset if growth else "",
        "clip": real(mixer.clip) if mixer.clip else "0",
        "q_norm": norm(mixer.qk_norm, "layer->q_norm", "layer->q_norm_bias"),
        "k_norm": norm(mixer.qk_norm, "layer->k_norm", "layer->k_norm_bias"),
        "qk_norm_over": "each head by itself" if by_head else "all heads as one vector",
        "normalize_qk": "normalize_heads" if by_head else "normalize_all_heads",
    }
    conditions = {
        "clip": mixer.clip is not None,
        "gated": mixer.gated,
        "grows": growth is not None,
        "qk_norm_before": mixer.qk_norm is not None and not after,
        "qk_norm_after": after,
        "rope_last": any(one.rope for one in mixers if isinstance(one, AttentionConfig)) and not after,
    }
    return filled("part_attention.c.in", values, conditions) + "\n" + output(layout, part, "Z_DIM", "attention")
