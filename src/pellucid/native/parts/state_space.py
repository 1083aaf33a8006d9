"""Mamba and Mamba-2 as functions of the program."""

from __future__ import annotations

from pellucid.config import Mamba2Config, MambaConfig, ModelConfig
from pellucid.native.kinds import Kinds, Part, states_of
from pellucid.native.layout import Layout
from pellucid.native.parts.text import beginning, biases, numbers, output
from pellucid.native.writing import filled, norm, real, scaled


def mamba(config: ModelConfig, layout: Layout, kinds: Kinds, part: Part) -> str:
    mixer = part.layer.mixer
    assert isinstance(mixer, MambaConfig)
    values = {
        **beginning(config, part),
        "channels": mixer.channels,
        "state_size": mixer.state_size,
        "rank": mixer.dt_rank,
        "width": mixer.width,
        "activation": mixer.activation.upper(),
        **biases(layout, part, "ssm", ("z", "u")),
        "u_conv_bias": numbers(layout, part, "ssm.u_conv.bias"),
        **{
            f"{name}_norm": norm(mixer.inner_norm, f"layer->{name}_norm", f"layer->{name}_norm_bias")
            for name in ("dt_low", "b", "c")
        },
        "norm_parts": mixer.inner_norm.groups if mixer.inner_norm else 1,
        "h_state": states_of(mixer)["u"],
    }
    text = filled("part_mamba.c.in", values, {"inner_norm": mixer.inner_norm is not None})
    return text + "\n" + output(layout, part, "NUM_CHANNELS", "ssm")


def mamba2(config: ModelConfig, layout: Layout, kinds: Kinds, part: Part) -> str:
    mixer = part.layer.mixer
    assert isinstance(mixer, Mamba2Config)
    sizes, place, places = states_of(mixer), 0, {}
    for name, size in sizes.items():
        places[f"{name}_state"] = place
        place += size
    maps = tuple(mixer.projected)
    values = {
        **beginning(config, part),
        "num_heads": mixer.num_heads,
        "head_dim": mixer.head_dim,
        "state_size": mixer.state_size,
        "groups": mixer.num_groups,
        "width": mixer.width,
        "activation": mixer.activation.upper(),
        "forms": " | ".join(f"form_for(layer->{name}_proj.format)" for name in maps),
        **biases(layout, part, "ssd", ("z", "u", "b", "c")),
        "dt_proj_bias": numbers(layout, part, "ssd.dt_proj.bias"),
        **{f"{name}_scale": scaled(mixer.scale_of(name)) for name in maps},
        **{f"{name}_conv_bias": numbers(layout, part, f"ssd.{name}_conv.bias") for name in mixer.convolved},
        "dt_min": real(mixer.dt_min),
        "dt_max": "INFINITY" if mixer.dt_max is None else real(mixer.dt_max),
        "norm": norm(mixer.norm, "layer->norm", "layer->norm_bias"),
        "norm_parts": mixer.norm.groups if mixer.norm else 1,
        **places,
    }
    conditions = {f"norm_{at}": mixer.norm is not None and mixer.norm_at == at for at in ("before", "after")}
    return filled("part_mamba2.c.in", values, conditions) + "\n" + output(layout, part, "NUM_CHANNELS", "ssd")
