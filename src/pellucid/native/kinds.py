"""Layers that are computed alike: what a program has one function for.

A layer has two parts, its mixer and its MLP. Sizes and kinds are constants of a part's function; weights, windows,
scales and rotary angles lie in the table of layers, so layers that differ in them alone share one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from pellucid.config import (
    AttentionConfig,
    DeltaNetConfig,
    LatentAttentionConfig,
    LayerConfig,
    Mamba2Config,
    MambaConfig,
    Mixer,
    ModelConfig,
    ShortConvConfig,
)
from pellucid.native.layout import Layout, Stored, padded
from pellucid.native.writing import matrix, real

MAX_KINDS = 16  # of parts; a description of thousands of layers, no two alike, is no program


@dataclass(frozen=True)
class Heads:
    """The heads of a layer that attends, as in c/cache.h."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    softcap: float | None
    slopes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Part:
    """One function of the program: ``layers`` are computed by it, ``layer`` is the first of them."""

    name: str
    layers: tuple[int, ...]
    layer: LayerConfig


@dataclass(frozen=True)
class Kinds:
    """What differs between the layers of a model."""

    mixers: tuple[Part, ...]
    mlps: tuple[Part, ...]
    heads: tuple[Heads, ...]

    def called(self, num_layers: int) -> tuple[str, str]:
        """How forward() calls a layer's two parts: by name, or through the table where layers differ; "" where none
        has it.
        """

        def call(field: str, parts: tuple[Part, ...]) -> str:
            alone = len(parts) == 1 and len(parts[0].layers) == num_layers
            return "" if not parts else parts[0].name if alone else f"LAYERS[i].{field}"

        return call("mixer", self.mixers), call("mlp", self.mlps)


def heads_of(mixer: Mixer | None) -> Heads | None:
    """None for a mixer that does not attend."""
    if isinstance(mixer, AttentionConfig):
        e = mixer.head_dim
        return Heads(mixer.num_heads, mixer.num_kv_heads, e, mixer.v_width, mixer.softcap, mixer.alibi_slopes)
    if isinstance(mixer, LatentAttentionConfig):  # all heads share what is kept of a token
        return Heads(mixer.num_heads, 1, mixer.qk_rope_head_dim + mixer.kv_lora_rank, mixer.kv_lora_rank, None)
    return None


def states_of(mixer: Mixer | None) -> dict[str, int]:
    """Numbers of each state that a mixer keeps: rows of whole vectors, the last axis of (places, channels) padded."""
    if isinstance(mixer, ShortConvConfig):
        return {"conv": (mixer.width - 1) * padded(mixer.channels)}
    if isinstance(mixer, MambaConfig):
        wide = padded(mixer.channels)
        return {"u": (mixer.width - 1) * wide, "h": mixer.state_size * wide}
    if isinstance(mixer, Mamba2Config):
        kept = {name: (mixer.width - 1) * padded(channels) for name, channels in mixer.convolved.items()}
        return kept | {"h": mixer.channels * padded(mixer.state_size, 16)}
    if isinstance(mixer, DeltaNetConfig):
        kept, memory = mixer.conv_width - 1, mixer.num_heads * mixer.key_head_dim * padded(mixer.value_head_dim, 16)
        convolved = {"q": mixer.q_dim, "k": mixer.q_dim, "v": mixer.v_dim}
        return {name: kept * padded(channels) for name, channels in convolved.items()} | {"memory": memory}
    return {}


def maps_of(mixer: Mixer | None) -> tuple[int, int]:
    """How many linear maps a mixer with a state makes before it goes on, and the widest of them."""
    if isinstance(mixer, MambaConfig):
        return 6, max(mixer.channels, mixer.dt_rank, mixer.state_size)
    if isinstance(mixer, Mamba2Config):
        return 5, max(mixer.projected.values())
    if isinstance(mixer, DeltaNetConfig):
        ranks = (mixer.decay_rank or 1, mixer.gate_rank or 1)
        return 8 if max(ranks) > 1 else 6, max(mixer.q_dim, mixer.v_dim, mixer.decay_dim, *ranks)
    return (3, mixer.channels) if isinstance(mixer, ShortConvConfig) else (0, 0)


def z_dim_of(mixer: Mixer | None) -> int:
    """Numbers of what a mixer with a state makes."""
    if isinstance(mixer, DeltaNetConfig):
        return mixer.v_dim
    return mixer.channels if isinstance(mixer, ShortConvConfig | MambaConfig | Mamba2Config) else 1


def kinds_of(config: ModelConfig) -> Kinds:
    mixers: dict[Any, list[int]] = {}
    mlps: dict[Any, list[int]] = {}
    for i, layer in enumerate(config.layers):
        if layer.mixer is not None:
            mixers.setdefault(_mixer_key(layer), []).append(i)
        if layer.mlp is not None:
            mlps.setdefault(_mlp_key(layer), []).append(i)
    heads = dict.fromkeys(heads for layer in config.layers if (heads := heads_of(layer.mixer)))
    return Kinds(
        _parts(config, [(config.layers[which[0]].mixer.name, which) for which in mixers.values()]),  # pyright: ignore
        _parts(config, [("experts" if config.layers[which[0]].experts else "mlp", which) for which in mlps.values()]),
        tuple(heads),
    )


def _parts(config: ModelConfig, groups: list[tuple[str, list[int]]]) -> tuple[Part, ...]:
    """Their names are those of what they are; the second of a name is numbered."""
    parts: list[Part] = []
    for name, layers in groups:
        number = sum(part.name.partition("_of_kind_")[0] == name for part in parts) + 1
        unique = name if number == 1 else f"{name}_of_kind_{number}"
        parts.append(Part(unique, tuple(layers), config.layers[layers[0]]))
    return tuple(parts)


def _mixer_key(layer: LayerConfig) -> Any:
    """All that stands in the text of a mixer's function; where a weight lies, or that it is absent, is in the table."""
    alike = layer.mixer
    if isinstance(alike, AttentionConfig):
        alike = replace(alike, rope=None, window=None, chunk=None, scale=None, qkv_bias=False, o_bias=False)
    elif isinstance(alike, LatentAttentionConfig):
        alike = replace(alike, rope=None, window=None, scale=None, latent_bias=False, o_bias=False)
    elif isinstance(alike, ShortConvConfig | MambaConfig | Mamba2Config):
        alike = replace(alike, bias=False)
    return alike, layer.mixer_norms, layer.parallel, layer.residual_scale


def _mlp_key(layer: LayerConfig) -> Any:
    norms = (layer.mixer_norms if layer.parallel else None, layer.mlp_norms)
    alike = None if layer.mlp is None else replace(layer.mlp, bias=False)
    return alike, layer.experts, norms, layer.parallel, layer.residual_scale


def few_kinds(config: ModelConfig) -> bool:
    """Whether a program of readable length runs it."""
    mixers, mlps = {_mixer_key(layer) for layer in config.layers}, {_mlp_key(layer) for layer in config.layers}
    return max(len(mixers), len(mlps)) <= MAX_KINDS


def widths(config: ModelConfig) -> dict[str, int]:
    """Rows of activations, each as long as the widest layer needs."""
    heads = [heads for layer in config.layers if (heads := heads_of(layer.mixer))]
    dense = [layer.mlp.d_ff for layer in config.layers if layer.mlp and not layer.experts]
    q = [h.num_heads * max(h.head_dim, h.value_dim) for h in heads]
    kv = [h.num_kv_heads * max(h.head_dim, h.value_dim) for h in heads]
    latents = [layer.mixer for layer in config.layers if isinstance(layer.mixer, LatentAttentionConfig)]
    q += [mixer.num_heads * max(mixer.head_dim, mixer.v_head_dim) for mixer in latents]
    q += [z_dim_of(layer.mixer) for layer in config.layers]
    rows = {"D_ROW": [config.d_model], "Q_ROW": q, "KV_ROW": kv, "FF_ROW": dense}
    if mixtures := [layer.experts for layer in config.layers if layer.experts]:
        rows["EXPERTS_ROW"] = [experts.num_experts for experts in mixtures]
        each = [layer.mlp.d_ff for layer in config.layers if layer.mlp and layer.experts]
        rows["EXPERT_ROW"] = each + [experts.shared.d_ff for experts in mixtures if experts.shared]
    if any(states_of(layer.mixer) for layer in config.layers):
        rows["MAPS_ROW"] = [maps_of(layer.mixer)[1] for layer in config.layers]
    if latents:
        rows["LATENT_ROW"] = [mixer.q_lora_rank or 1 for mixer in latents]
        rows["BY_HEAD_ROW"] = [max(mixer.kv_lora_rank, mixer.qk_nope_head_dim) for mixer in latents]
    return {name: padded(max(wide, default=1)) for name, wide in rows.items()}


def layer_table(config: ModelConfig, layout: Layout, kinds: Kinds) -> tuple[str, str]:
    """The struct of a layer, with the fields that this model's have, and the table of them."""
    weights: list[dict[str, Stored]] = [{} for _ in config.layers]
    for name, entry in layout.entries.items():
        if name.startswith("layers."):
            _, i, rest = name.split(".", 2)
            weights[int(i)][rest] = entry
    rows = [_fields(config, layout, kinds, i, weights[i]) for i in range(config.num_layers)]
    types: dict[str, str] = {}
    for row in rows:
        types |= {name: kind for name, (kind, _) in row.items()}
    table = "\n".join(
        "    {" + ", ".join(f".{name} = {value}" for name, (_, value) in row.items()) + "}," for row in rows
    )
    by_type: dict[str, list[str]] = {}
    for name, kind in types.items():
        by_type.setdefault(kind, []).append(name)
    struct = "\n".join(
        f"    {kind}{(', ' + kind[-1] if kind[-1] == '*' else ', ').join(names)};{_ABOUT.get(kind, '')}"
        for kind, names in by_type.items()
    )
    return struct, table


_ABOUT = {"size_t ": " // offsets; 0: absent", "Steps *": " // the functions that compute it"}


def _fields(
    config: ModelConfig, layout: Layout, kinds: Kinds, i: int, weights: Mapping[str, Stored]
) -> dict[str, tuple[str, str]]:
    """Field → type and value."""
    layer, fields = config.layers[i], {}
    calls = kinds.called(config.num_layers)
    for part, parts, call in zip(("mixer", "mlp"), (kinds.mixers, kinds.mlps), calls, strict=True):
        if call.startswith("LAYERS"):
            fields[part] = ("Steps *", next((each.name for each in parts if i in each.layers), "NULL"))
    if len({each.parallel for each in config.layers}) > 1:
        fields["parallel"] = ("bool ", str(layer.parallel).lower())
    for name, entry in weights.items():
        if name.startswith("mlp.experts.") and not name.startswith("mlp.experts.0."):
            continue  # so many bytes after the first one's
        if name.endswith(".weight") and entry.stride:
            fields[field_of(name)] = ("Matrix ", matrix(layout, entry.name))
        else:
            fields[field_of(name)] = ("size_t ", str(entry.offset))
    if layer.experts:
        fields["expert_step"] = ("size_t ", str(_step(weights, layer.experts.num_experts)))
    mixer = layer.mixer
    if states_of(mixer):
        before = sum(sum(states_of(other.mixer).values()) for other in config.layers[:i])
        fields["state"] = ("size_t ", str(before))
    if (heads := heads_of(mixer)) and isinstance(mixer, AttentionConfig | LatentAttentionConfig):
        fields["heads"] = ("int ", str(kinds.heads.index(heads)))
        fields["scale"] = ("float ", real(mixer.softmax_scale))
        chunk = getattr(mixer, "chunk", None)
        fields["window"] = ("int ", str(min(filter(None, (mixer.window, chunk)), default="INT_MAX")))
        if any(getattr(other.mixer, "chunk", None) for other in config.layers):
            fields["chunk"] = ("int ", str(chunk or "INT_MAX"))
        fields["rotary"] = ("int ", str(config.ropes.index(mixer.rope) if mixer.rope else -1))
    else:
        fields |= {"heads": ("int ", "-1"), "window": ("int ", "INT_MAX")}
    return fields


def _step(weights: Mapping[str, Stored], num_experts: int) -> int:
    """Bytes from one expert's weights to the next one's; the same for all, for they are alike and lie in order."""
    steps = {0}
    for name, entry in weights.items():
        if name.startswith("mlp.experts.0."):
            rest = name.removeprefix("mlp.experts.0.")
            places = [weights[f"mlp.experts.{e}.{rest}"].offset for e in range(num_experts)]
            steps = {b - a for a, b in pairwise(places)} or {0}
            assert len(steps) == 1, f"{entry.name} and its like lie unevenly"
    return steps.pop()


_PARTS = ("attention", "short_conv", "delta_net", "ssm", "ssd", "mlp")


def field_of(name: str) -> str:
    """A weight's field in the table: ``attention.q_proj.weight`` → q_proj, its bias → q_bias, ``mlp_norm.weight`` →
    mlp_norm, ``mlp.experts.0.up_proj.weight`` → expert_up_proj. A mixer's gate is z's: an MLP has one, too.
    """
    if not name.startswith("mlp."):
        name = name.replace(".gate_", ".z_gate_")
    path, _, leaf = name.replace("mlp.experts.0.", "expert_").rpartition(".")
    field = "_".join(part for part in path.split(".") if part not in _PARTS)
    if leaf == "weight":
        return field
    if field == "dt_proj" and leaf == "bias":
        return "dt_proj_bias"  # dt_bias is what is added to all of Δ, where a map has a bias or not
    return f"{field.removesuffix('_proj')}_bias" if leaf == "bias" else "_".join(filter(None, (field, leaf)))
