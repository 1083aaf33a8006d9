"""What the functions of a layer's parts have in common: titles, norms, biases."""

from __future__ import annotations

from collections.abc import Iterable

from pellucid.config import LayerConfig, ModelConfig
from pellucid.native.kinds import Part, field_of
from pellucid.native.layout import Layout
from pellucid.native.writing import filled, norm, scaled, times


def title(config: ModelConfig, part: Part, made: str, gives: str) -> str:
    which = "of every layer" if len(part.layers) == config.num_layers else f"of layers {_ranges(part.layers)}"
    return f"{gives}, from {made}: {which}."


def _ranges(layers: Iterable[int]) -> str:
    """0, 2 to 5, 9."""
    spans: list[list[int]] = []
    for i in layers:
        if spans and spans[-1][1] == i - 1:
            spans[-1][1] = i
        else:
            spans.append([i, i])
    words = [str(a) if a == b else f"{a} to {b}" for a, b in spans]
    return ", ".join(words[:8]) + (", …" if len(words) > 8 else "")


def numbers(layout: Layout, part: Part, weight: str) -> str:
    """Where a vector of the layer lies, if a layer of this kind has it."""
    has = any(f"layers.{i}.{weight}" in layout.entries for i in part.layers)
    return f"numbers(m, layer->{field_of(weight)})" if has else "NULL"


def biases(layout: Layout, part: Part, path: str, names: Iterable[str]) -> dict[str, str]:
    """``q_bias``: where the bias of q_proj lies."""
    return {f"{name}_bias": numbers(layout, part, f"{path}.{name}_proj.bias") for name in names}


def norms(layer: LayerConfig, names: Iterable[str]) -> str:
    """The norms that a part has, each as a constant of its function."""
    lines = [
        f"    const Norm {name} = {norm(layer.norms[name], f'layer->{name}', f'layer->{name}_bias')};"
        for name in names
        if name in layer.norms
    ]
    return "\n".join([*lines, ""])


def named(layer: LayerConfig, name: str) -> str:
    """A norm of the layer as an argument in C."""
    return f"&{name}" if name in layer.norms else "&NONE"


def normed(layer: LayerConfig, name: str, value: str) -> str:
    """In words: the norm of a value, or the value where there is no such norm."""
    return f"{name}({value})" if name in layer.norms else value


def mixer_gives(layer: LayerConfig) -> str:
    """What a layer's first part ends with."""
    return "attn_out" if layer.parallel else "resid_post" if layer.mlp is None else "resid_mid"


MIXER_NORMS = ("attention_norm", "attention_post_norm", "attention_sum_norm")


def beginning(config: ModelConfig, part: Part) -> dict[str, object]:
    """What every mixer's function begins with."""
    layer = part.layer
    return {
        "title": title(config, part, "resid_pre and what attention makes of it", mixer_gives(layer)),
        "name": part.name,
        "norms": norms(layer, MIXER_NORMS),
        "attn_in": normed(layer, "attention_norm", "resid_pre"),
        "read_by_mixer": named(layer, "attention_norm"),
    }


def output(layout: Layout, part: Part, z_width: str, path: str, z: str = "m->z") -> str:
    """How a mixer ends: z W_oᵀ, added to the stream. ``path``: of the weights, ``attention``; ``z``: where it is."""
    layer = part.layer
    post_norm, in_turn = "attention_post_norm" in layer.norms, not layer.parallel
    apart = layer.parallel or post_norm
    values = {
        "z": z,
        "z_width": z_width,
        "resid_mid": mixer_gives(layer),
        "attn_out": normed(layer, "attention_post_norm", "z W_oᵀ"),
        "norm_of_mixer": named(layer, "attention_post_norm"),
        **biases(layout, part, path, ("o",)),
        "scale": scaled(layer.residual_scale),
        "times": times(layer.residual_scale),
    }
    conditions = {
        "apart": apart,
        "at_once": not apart,
        "apart_in_turn": in_turn and post_norm,
        "post_norm": post_norm,
        "sum_norm": "attention_sum_norm" in layer.norms,
        "scaled": layer.residual_scale != 1,
    }
    return filled("part_output.c.in", values, conditions)
