"""The two parts of each kind of layer as functions in C: their templates, and what stands in them."""

from __future__ import annotations

from collections.abc import Iterable

from pellucid.config import LayerConfig, ModelConfig
from pellucid.native.kinds import Kinds, Part, field_of, heads_of
from pellucid.native.layout import Layout
from pellucid.native.writing import filled, norm, real, scaled, times

ACTIVATIONS = {"silu": "SILU", "gelu": "GELU", "gelu_tanh": "GELU_TANH", "relu": "RELU", "relu2": "RELU2"}


def parts(config: ModelConfig, layout: Layout, kinds: Kinds) -> list[str]:
    """The functions, in the order of a layer's computation."""
    return [
        *(mixer_part(config, layout, kinds, part) for part in kinds.mixers),
        *(mlp_part(config, layout, part) for part in kinds.mlps),
    ]


def mixer_part(config: ModelConfig, layout: Layout, kinds: Kinds, part: Part) -> str:
    layer = part.layer
    attention, heads = layer.mixer, heads_of(layer.mixer)
    after = attention.qk_norm_at == "after" and attention.qk_norm is not None
    by_head = attention.qk_norm_over == "head"
    rotates = any(config.layers[i].mixer.rope for i in part.layers)
    values = {
        "title": _title(config, part, "resid_pre and what attention makes of it", mixer_gives(layer)),
        "name": part.name,
        "norms": _norms(layer, ("attention_norm", "attention_post_norm", "attention_sum_norm")),
        "heads": kinds.heads.index(heads),
        "q_dim": attention.q_dim,
        "k_dim": attention.kv_dim,
        "v_dim": heads.num_kv_heads * heads.value_dim,
        "z_dim": heads.num_heads * heads.value_dim,
        "attn_in": _normed(layer, "attention_norm", "resid_pre"),
        "read_by_mixer": _named(layer, "attention_norm"),
        **_biases(layout, part, "attention", ("q", "k", "v")),
        "clip": real(attention.clip) if attention.clip else "0",
        "q_norm": norm(attention.qk_norm, "layer->q_norm", "layer->q_norm_bias"),
        "k_norm": norm(attention.qk_norm, "layer->k_norm", "layer->k_norm_bias"),
        "qk_norm_over": "each head by itself" if by_head else "all heads as one vector",
        "normalize_qk": "normalize_heads" if by_head else "normalize_all_heads",
    }
    conditions = {
        "clip": attention.clip is not None,
        "qk_norm_before": attention.qk_norm is not None and not after,
        "qk_norm_after": after,
        "rope_last": rotates and not after,
    }
    return filled("part_attention.c.in", values, conditions) + "\n" + _output(layout, part, "Z_DIM")


def _output(layout: Layout, part: Part, z_width: str) -> str:
    """How a mixer ends: z W_oᵀ, added to the stream."""
    layer = part.layer
    post_norm, in_turn = "attention_post_norm" in layer.norms, not layer.parallel
    apart = layer.parallel or post_norm
    values = {
        "z_width": z_width,
        "attn_out": _normed(layer, "attention_post_norm", "z W_oᵀ"),
        "norm_of_mixer": _named(layer, "attention_post_norm"),
        **_biases(layout, part, part.layer.mixer.name, ("o",)),
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


def mlp_part(config: ModelConfig, layout: Layout, part: Part) -> str:
    layer, mlp = part.layer, part.layer.mlp
    parallel, post_norm = layer.parallel, "mlp_post_norm" in layer.norms
    read, stream = "mlp_norm", "resid_pre" if parallel else "resid_mid"
    if parallel and "mlp_norm" not in layer.norms:
        read = "attention_norm"  # what attention reads
    names = ["mlp_norm", "mlp_post_norm", "mlp_sum_norm"]
    if parallel:
        names += ["attention_post_norm", *(["attention_norm"] if read == "attention_norm" else [])]
    values = {
        "title": _title(config, part, f"{stream} and what the MLP makes of it", "resid_post"),
        "name": part.name,
        "norms": _norms(layer, names),
        "d_ff": mlp.d_ff,
        "activation": ACTIVATIONS[mlp.activation],
        "read_by_mlp": _named(layer, read),
        "mlp_in": _normed(layer, read, stream),
        "norm_of_mixer": _named(layer, "attention_post_norm"),
        "stream": "resid_pre + attn_out" if parallel else "resid_mid",
        **_biases(layout, part, "mlp", ("gate", "up", "down")),
        "scale": scaled(layer.residual_scale),
        "times": times(layer.residual_scale),
    }
    conditions = {
        "gated": mlp.gated,
        "parallel": parallel,
        "post_norm": post_norm,
        "at_once": not post_norm,
        "sum_norm": "mlp_sum_norm" in layer.norms,
        "scaled": layer.residual_scale != 1,
    }
    return filled("part_mlp.c.in", values, conditions)


def mixer_gives(layer: LayerConfig) -> str:
    """What the first part of a layer ends with."""
    return "attn_out" if layer.parallel else "resid_mid"


def _title(config: ModelConfig, part: Part, made: str, gives: str) -> str:
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


def _biases(layout: Layout, part: Part, path: str, names: Iterable[str]) -> dict[str, str]:
    """``q_bias``: where the bias of q_proj lies, if a layer of this kind has one."""
    found = {}
    for name in names:
        weight = f"{path}.{name}_proj.bias"
        has = any(f"layers.{i}.{weight}" in layout.entries for i in part.layers)
        found[f"{name}_bias"] = f"numbers(m, layer->{field_of(weight)})" if has else "NULL"
    return found


def _norms(layer: LayerConfig, names: Iterable[str]) -> str:
    """The norms that a part has, each as a constant of its function."""
    lines = [
        f"    const Norm {name} = {norm(layer.norms[name], f'layer->{name}', f'layer->{name}_bias')};"
        for name in names
        if name in layer.norms
    ]
    return "\n".join([*lines, ""])


def _named(layer: LayerConfig, name: str) -> str:
    """A norm of the layer as an argument in C."""
    return f"&{name}" if name in layer.norms else "&NONE"


def _normed(layer: LayerConfig, name: str, value: str) -> str:
    """In words: the norm of a value, or the value where there is no such norm."""
    return f"{name}({value})" if name in layer.norms else value
