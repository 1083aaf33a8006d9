"""Gated DeltaNet as a function of the program."""

from __future__ import annotations

from itertools import accumulate

from pellucid.config import DeltaNetConfig, ModelConfig
from pellucid.native.kinds import Kinds, Part, states_of
from pellucid.native.layout import Layout
from pellucid.native.parts.text import beginning, output
from pellucid.native.writing import filled, norm, real


def delta_net(config: ModelConfig, layout: Layout, kinds: Kinds, part: Part) -> str:
    mixer = part.layer.mixer
    assert isinstance(mixer, DeltaNetConfig)
    read = [
        *("q_proj", "k_proj", "v_proj", "beta_proj"),
        "decay_proj" if mixer.decay_rank is None else "decay_a_proj",
        "z_gate_proj" if mixer.gate_rank is None else "z_gate_a_proj",
    ]
    sizes = states_of(mixer)
    places = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))
    values = {
        **beginning(config, part),
        "q_dim": mixer.q_dim,
        "v_dim": mixer.v_dim,
        "num_heads": mixer.num_heads,
        "num_key_heads": mixer.num_key_heads,
        "key_dim": mixer.key_head_dim,
        "value_dim": mixer.value_head_dim,
        "decay_dim": mixer.decay_dim,
        "width": mixer.conv_width,
        "by_channel": str(mixer.decay_by == "channel").lower(),
        "beta_scale": real(mixer.beta_scale),
        "decay_rank": mixer.decay_rank,
        "gate_rank": mixer.gate_rank,
        "gate": {"silu": "SILU_GATE", "sigmoid": "SIGMOID_GATE"}[mixer.gate],
        "forms": " | ".join(f"form_for(layer->{name}.format)" for name in read),
        "z_norm": norm(mixer.norm, "layer->z_norm", "layer->z_norm_bias"),
        **{f"{name}_state" if name != "memory" else name: place for name, place in places.items()},
    }
    conditions = {"decay_narrow": mixer.decay_rank is not None, "gate_narrow": mixer.gate_rank is not None}
    return filled("part_delta_net.c.in", values, conditions) + "\n" + output(layout, part, "V_DIM", "delta_net")
