"""State-space mixers in files: the fused maps of Hugging Face's models, and how llama.cpp's files have them.

Source: llama.cpp convert_hf_to_gguf.py (Mamba2Model.modify_tensors: what the converter does), gguf-py constants.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError
from pellucid.base.typed import is_whole, shown
from pellucid.config import LayerConfig, Mamba2Config, MambaConfig, ModelConfig, NormConfig
from pellucid.families.translation.gguf import has_bias
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import Place, Rule, Split, Squeeze, Transform, both
from pellucid.quant import dequantize

MOST = 1e30  # of a step; beyond it there is no bound
FLOAT32 = 3.4e38
CONTEXT = 2**20  # of models without positions, where nothing says how far they were trained; llama.cpp's number, too

KINDS = ("weight", "bias")
GGUF_NORMS = {"dt_low": "dt", "b": "b", "c": "c"}


def _sizes(of: Callable[[Any], tuple[int, ...]], kind: type) -> Callable[[LayerConfig], tuple[int, ...]]:
    def sizes(layer: LayerConfig) -> tuple[int, ...]:
        mixer = layer.mixer if isinstance(layer.mixer, kind) else layer.beside
        assert isinstance(mixer, kind)
        return of(mixer)

    return sizes


# Rows of maps that are several in one.
U_Z = Split(_sizes(lambda mixer: (mixer.channels, mixer.channels), MambaConfig))
DT_LOW_B_C = Split(_sizes(lambda mixer: (mixer.dt_rank, mixer.state_size, mixer.state_size), MambaConfig))
PROJECTED = Split(_sizes(lambda mixer: tuple(mixer.projected.values()), Mamba2Config))
CONVOLVED = Split(_sizes(lambda mixer: tuple(mixer.convolved.values()), Mamba2Config))


class NegativeExp:
    """A itself in files, −exp(A_log), for a description that keeps A_log; in float32."""

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        with np.errstate(
            invalid="ignore", divide="ignore"
        ):  # an A that is not negative has no logarithm: NaN, as it is
            return [Array.from_numpy(np.log(-dequantize(array).astype(np.float32))) for array in arrays]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        return [Array.from_numpy(-np.exp(dequantize(array).astype(np.float32))) for array in arrays]


class Column:
    """A vector (H,) as a column (H, 1) in files."""

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        return [array.with_data(array.data.reshape(-1)) for array in arrays]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        return [array.with_data(array.data.reshape(-1, 1)) for array in arrays]


class InGroups:
    """γ of a norm of groups (I,) as a matrix (G, I / G) in files."""

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        return [array.with_data(array.data.reshape(-1)) for array in arrays]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        assert isinstance(place, LayerConfig)
        mixer = place.mixer if isinstance(place.mixer, Mamba2Config) else place.beside
        assert isinstance(mixer, Mamba2Config)
        return [array.with_data(array.data.reshape(mixer.num_groups, -1)) for array in arrays]


def mamba_rules(theirs: str, ours: str = "layers.{i}.ssm", **norms: str) -> tuple[Rule, ...]:
    """Mamba by its first authors' names. ``norms``: the names of dt_low's, b's and c's, where there are such."""
    parts = {part: f"{ours}.{part}_proj" for part in ("u", "z", "dt_low", "b", "c")}
    return (
        *(Rule(f"{theirs}.in_proj.{kind}", tuple(f"{parts[part]}.{kind}" for part in "uz"), (U_Z,)) for kind in KINDS),
        *_conv(f"{theirs}.conv1d", f"{ours}.u_conv", (Squeeze(),)),
        Rule(f"{theirs}.x_proj.weight", tuple(f"{parts[part]}.weight" for part in ("dt_low", "b", "c")), (DT_LOW_B_C,)),
        *(Rule(f"{theirs}.{name}.weight", f"{ours}.{part}_norm.weight") for part, name in norms.items()),
        Rule(f"{theirs}.dt_proj.weight", f"{ours}.dt_proj.weight"),
        Rule(f"{theirs}.dt_proj.bias", f"{ours}.dt_bias"),
        Rule(f"{theirs}.A_log", f"{ours}.A_log"),
        Rule(f"{theirs}.D", f"{ours}.D"),
        *both(f"{theirs}.out_proj", f"{ours}.o_proj"),
    )


def mamba2_rules(theirs: str, ours: str = "layers.{i}.ssd") -> tuple[Rule, ...]:
    """Mamba-2 by its first authors' names."""
    return (
        *_projected(f"{theirs}.in_proj", ours),
        *_convolved(f"{theirs}.conv1d", ours, (Squeeze(),)),
        *(Rule(f"{theirs}.{name}", f"{ours}.{name}") for name in ("dt_bias", "A_log", "D")),
        Rule(f"{theirs}.norm.weight", f"{ours}.norm.weight"),
        *both(f"{theirs}.out_proj", f"{ours}.o_proj"),
    )


def gguf_mamba_rules(ours: str = "layers.{i}.ssm") -> tuple[Rule, ...]:
    """Mamba in llama.cpp's files; norms have names there in Jamba's alone."""
    at = "blk.{i}.ssm_"
    parts = {part: f"{ours}.{part}_proj" for part in ("u", "z", "dt_low", "b", "c")}
    return (
        *(Rule(f"{at}in.{kind}", tuple(f"{parts[part]}.{kind}" for part in "uz"), (U_Z,)) for kind in KINDS),
        *_conv(f"{at}conv1d", f"{ours}.u_conv", ()),
        Rule(f"{at}x.weight", tuple(f"{parts[part]}.weight" for part in ("dt_low", "b", "c")), (DT_LOW_B_C,)),
        *(Rule(f"{at}{name}_norm.weight", f"{ours}.{part}_norm.weight") for part, name in GGUF_NORMS.items()),
        Rule(f"{at}dt.weight", f"{ours}.dt_proj.weight"),
        Rule(f"{at}dt.bias", f"{ours}.dt_bias"),
        Rule(f"{at}a", f"{ours}.A_log", (NegativeExp(),)),
        Rule(f"{at}d", f"{ours}.D"),
        *both(f"{at}out", f"{ours}.o_proj"),
    )


def gguf_mamba2_rules(ours: str = "layers.{i}.ssd") -> tuple[Rule, ...]:
    """Mamba-2 in llama.cpp's files."""
    at = "blk.{i}.ssm_"
    return (
        *_projected(f"{at}in", ours),
        *_convolved(f"{at}conv1d", ours, ()),
        Rule(f"{at}dt.bias", f"{ours}.dt_bias"),
        Rule(f"{at}a", f"{ours}.A_log", (Column(), NegativeExp())),
        Rule(f"{at}d", f"{ours}.D", (Column(),)),
        Rule(f"{at}norm.weight", f"{ours}.norm.weight", (InGroups(),)),
        *both(f"{at}out", f"{ours}.o_proj"),
    )


def _conv(theirs: str, ours: str, transforms: tuple[Transform, ...]) -> tuple[Rule, ...]:
    return Rule(f"{theirs}.weight", f"{ours}.weight", transforms), Rule(f"{theirs}.bias", f"{ours}.bias")


def _projected(theirs: str, ours: str) -> tuple[Rule, ...]:
    parts = ("z", "u", "b", "c", "dt")
    return tuple(
        Rule(f"{theirs}.{kind}", tuple(f"{ours}.{part}_proj.{kind}" for part in parts), (PROJECTED,)) for kind in KINDS
    )


def _convolved(theirs: str, ours: str, transforms: tuple[Transform, ...]) -> tuple[Rule, ...]:
    weight, bias = (tuple(f"{ours}.{part}_conv.{kind}" for part in "ubc") for kind in KINDS)
    return Rule(f"{theirs}.weight", weight, (*transforms, CONVOLVED)), Rule(f"{theirs}.bias", bias, (CONVOLVED,))


def ssm_keys(architecture: str, metadata: Metadata) -> dict[str, Any]:
    """What llama.cpp's metadata say of a state-space mixer: sizes, by llama.cpp's names."""
    names = ("conv_kernel", "inner_size", "state_size", "time_step_rank")
    return {name: metadata.needed(f"{architecture}.ssm.{name}") for name in names}


def mamba2_keys(architecture: str, metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    """The same of Mamba-2 in a hybrid, by the names of ``prefixed_mamba2``."""
    sizes, d_model = ssm_keys(architecture, metadata), metadata.needed(f"{architecture}.embedding_length")
    num_heads, channels = sizes["time_step_rank"], sizes["inner_size"]  # the first under the name of Mamba's rank
    if not is_whole(num_heads) or not is_whole(channels) or num_heads < 1 or channels % num_heads:
        raise ConfigError(
            "ssm.inner_size must be a multiple of ssm.time_step_rank", where=metadata.where, received=shown(sizes)
        )
    return {
        "mamba_expand": expansion(channels, d_model),
        "mamba_n_heads": num_heads,
        "mamba_d_head": channels // num_heads,
        "mamba_d_state": sizes["state_size"],
        "mamba_n_groups": metadata.needed(f"{architecture}.ssm.group_count"),
        "mamba_d_conv": sizes["conv_kernel"],
        "mamba_conv_bias": has_bias(tensors, "ssm_conv1d"),
        "mamba_proj_bias": False,
    }


def bounds(keys: Keys, name: str = "time_step_limit") -> dict[str, Any]:
    """Between what Δ lies, as fields of the mixer. transformers writes an infinity as an object of its own, others as
    JSON never had it.
    """
    low, high = keys.get(name, (0.0, math.inf))
    high = float(high["__float__"] if isinstance(high, Mapping) else high)
    return {"dt_min": float(low), "dt_max": None if high > MOST else high}


def bounds_to_hf(mixer: Mamba2Config, name: str = "time_step_limit") -> dict[str, Any]:
    """Nothing where there are none: so it is where the key is absent."""
    if mixer.dt_max is None and mixer.dt_min == 0:
        return {}
    return {name: [mixer.dt_min, FLOAT32 if mixer.dt_max is None else mixer.dt_max]}


def expansion(channels: int, d_model: int) -> int | float:
    """What ``expand`` must be to make so many channels: a whole number where it can, as transformers asks for."""
    return channels // d_model if channels % d_model == 0 else channels / d_model


# Of configs that name Mamba-2's sizes with ``mamba_`` before them: how a new model begins, and how it is run.
PREFIXED_HARMLESS = ("mamba_chunk_size", "mamba_dt_m*", "mamba_dt_init*", "mamba_use_mlp", "use_mamba_kernels")


def prefixed_mamba2(keys: Keys, eps: float, channels: int | None = None, **fields: Any) -> Mamba2Config:
    """Mamba-2 of such a config. ``channels``: where its width is not ``mamba_expand`` times the stream's."""
    channels = channels or int(keys.get("mamba_expand", 2) * keys.size("hidden_size"))
    num_heads, groups = keys.size("mamba_n_heads", 128), keys.size("mamba_n_groups", 1)
    auto = keys.get("mamba_d_head", "auto") == "auto"
    head_dim = max(channels // num_heads, 1) if auto else keys.size("mamba_d_head")
    if num_heads * head_dim != channels:
        raise ConfigError(
            "heads do not make up the mixer's width",
            where=keys.where,
            expected=f"mamba_n_heads · mamba_d_head = {channels}",
            received=f"{num_heads} · {head_dim}",
        )
    bias = keys.switch("mamba_proj_bias", False)
    described = {
        "num_heads": num_heads,
        "head_dim": head_dim,
        "state_size": keys.size("mamba_d_state", 256),
        "num_groups": groups,
        "width": keys.size("mamba_d_conv", 4),
        "conv_bias": keys.switch("mamba_conv_bias", True),
        "bias": bias,
        "o_bias": bias,
        "activation": keys.activation("hidden_act", "silu"),
        "norm": NormConfig(eps=eps, groups=groups),
        **bounds(keys),
    }
    return Mamba2Config(**described | fields)


def prefixed_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The keys of ``prefixed_mamba2``, where a layer has such a mixer."""
    mixer = next((mixer for mixer in config.mixers if isinstance(mixer, Mamba2Config)), None)
    if mixer is None:
        return {}
    return {
        "mamba_n_heads": mixer.num_heads,
        "mamba_d_head": mixer.head_dim,
        "mamba_d_state": mixer.state_size,
        "mamba_n_groups": mixer.num_groups,
        "mamba_d_conv": mixer.width,
        "mamba_expand": expansion(mixer.channels, config.d_model),
        "mamba_conv_bias": mixer.conv_bias,
        "mamba_proj_bias": mixer.bias,
        **bounds_to_hf(mixer),
    }
