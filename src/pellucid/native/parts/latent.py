"""Latent attention as a function of the program."""

from __future__ import annotations

from pellucid.config import LatentAttentionConfig, ModelConfig
from pellucid.native.kinds import Kinds, Part, heads_of
from pellucid.native.layout import Layout
from pellucid.native.parts.text import beginning, biases, output
from pellucid.native.writing import filled, norm


def latent(config: ModelConfig, layout: Layout, kinds: Kinds, part: Part) -> str:
    mixer = part.layer.mixer
    assert isinstance(mixer, LatentAttentionConfig)
    heads = heads_of(mixer)
    assert heads is not None
    values = {
        **beginning(config, part),
        "heads": kinds.heads.index(heads),
        "num_heads": mixer.num_heads,
        "rank": mixer.kv_lora_rank,
        "q_rank": mixer.q_lora_rank or 0,
        "q_dim": mixer.head_dim,
        "turned": mixer.qk_rope_head_dim,
        "own": mixer.qk_nope_head_dim,
        "v_dim": mixer.v_head_dim,
        "first_proj": "q_a_proj" if mixer.q_lora_rank else "q_proj",
        **biases(layout, part, "attention", ("q_a", "kv_a", "k_rope")),
        "q_a_norm": norm(mixer.latent_norm, "layer->q_a_norm", "layer->q_a_norm_bias"),
        "kv_a_norm": norm(mixer.latent_norm, "layer->kv_a_norm", "layer->kv_a_norm_bias"),
    }
    text = filled("part_latent.c.in", values, {"q_latent": mixer.q_lora_rank is not None})
    return text + "\n" + output(layout, part, "NUM_HEADS * V_DIM", "attention", z="m->q")
