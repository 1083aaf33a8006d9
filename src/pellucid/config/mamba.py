"""State-space mixers: Mamba, whose channels each keep a state, and Mamba-2, whose heads do."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from pellucid.base.errors import ConfigError
from pellucid.base.typed import check_fields
from pellucid.config.checks import check_choice, check_number, check_size
from pellucid.config.mlp import Activation, linear_shapes
from pellucid.config.norm import NormConfig, norm_shapes
from pellucid.config.recurrent import Recurrent, conv_shapes

ConvActivation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]


@dataclass(frozen=True, kw_only=True)
class MambaConfig(Recurrent):
    """h_t = exp(Δ_t A) ⊙ h_{t−1} + Δ_t B_t x_t and y_t = C_t·h_t + D x_t, for each of ``channels`` a state of
    ``state_size`` numbers; then (y ⊙ silu(z)) W_oᵀ.

    x comes of a linear map u of the input, convolved over its last ``width`` places and activated; B, C and, through
    ``dt_rank`` numbers, Δ are linear maps of x, z one of the input. A = −exp(A_log).
    Source: Gu & Dao 2023.
    """

    name: ClassVar[str] = "ssm"  # of the mixer in its weights' names
    wide_state: ClassVar[tuple[str, ...]] = ("h",)

    channels: int
    state_size: int
    dt_rank: int
    width: int = 4  # of the convolution
    conv_bias: bool = True
    bias: bool = False  # of the maps from the stream and back to it
    activation: Activation = "silu"  # after the convolution
    inner_norm: NormConfig | None = None  # of Δ's numbers, B and C, each as one vector

    def __post_init__(self) -> None:
        check_fields(self, "ssm")
        check_size("ssm", channels=self.channels, state_size=self.state_size, dt_rank=self.dt_rank, width=self.width)
        check_choice("ssm", "activation", self.activation, get_args(ConvActivation))
        if self.inner_norm:
            for size in (self.dt_rank, self.state_size):
                norm_shapes("ssm.inner_norm", size, self.inner_norm)  # its groups fit, or it says why not

    def weight_shapes(self, prefix: str, d_model: int) -> dict[str, tuple[int, ...]]:
        """Its weights: ``{"layers.0.ssm.u_proj.weight": (1536, 768), …}`` for ``layers.0.ssm.``."""
        shapes: dict[str, tuple[int, ...]] = {}
        for part in ("u", "z"):
            shapes |= linear_shapes(f"{prefix}{part}_proj", self.channels, d_model, self.bias)
        shapes |= conv_shapes(f"{prefix}u_conv", self.channels, self.width, self.conv_bias)
        for part, size in (("dt_low", self.dt_rank), ("b", self.state_size), ("c", self.state_size)):
            shapes |= linear_shapes(f"{prefix}{part}_proj", size, self.channels, False)
            if self.inner_norm:
                shapes |= norm_shapes(f"{prefix}{part}_norm", size, self.inner_norm)
        shapes |= linear_shapes(f"{prefix}dt_proj", self.channels, self.dt_rank, False)
        shapes |= {f"{prefix}dt_bias": (self.channels,)}
        shapes |= {f"{prefix}A_log": (self.channels, self.state_size), f"{prefix}D": (self.channels,)}
        return shapes | linear_shapes(f"{prefix}o_proj", d_model, self.channels, self.bias)

    def resized(self, d_model: int, num_heads: int, head_dim: int) -> MambaConfig:
        """Twice as many channels as the stream has, and a sixteenth of it for Δ (Gu & Dao 2023 §3.4, 3.6)."""
        return replace(self, channels=2 * d_model, dt_rank=math.ceil(d_model / 16))

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"u": (self.width - 1, self.channels), "h": (self.channels, self.state_size)}


@dataclass(frozen=True, kw_only=True)
class Mamba2Config(Recurrent):
    """Mamba with heads: h_t = exp(Δ_t A) h_{t−1} + Δ_t x_t B_tᵀ and y_t = h_t C_t + D x_t, A, D and Δ a number a head.

    z, u, B, C and Δ are linear maps of the input; u (which becomes x), B and C are convolved over their last ``width``
    places and activated. ``num_groups`` of heads share B and C. What comes of it is gated and normed: see ``norm``.
    ``scales`` multiply z, u, B, C and Δ as projected. Source: Dao & Gu 2024; Zuo et al. 2025 (Falcon-H1, the scales).
    """

    name: ClassVar[str] = "ssd"  # of the mixer in its weights' names
    wide_state: ClassVar[tuple[str, ...]] = ("h",)

    num_heads: int
    head_dim: int
    state_size: int
    num_groups: int = 1
    width: int = 4  # of the convolution
    conv_bias: bool = True
    bias: bool = False  # of the maps from the stream
    o_bias: bool = False  # of the map back to it
    activation: Activation = "silu"  # after the convolution
    dt_min: float = 0.0  # Δ lies between the two
    dt_max: float | None = None
    norm: NormConfig | None = None  # of y, in num_groups parts
    norm_at: Literal["after", "before"] = "after"  # the gate: norm(y ⊙ silu(z)), or norm(y) ⊙ silu(z)
    in_scale: float = 1.0  # multiplies the input
    scales: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)
    out_scale: float = 1.0  # multiplies what is added

    def __post_init__(self) -> None:
        check_fields(self, "ssd")
        sizes = {name: getattr(self, name) for name in ("num_heads", "head_dim", "state_size", "num_groups", "width")}
        check_size("ssd", **sizes)
        check_choice("ssd", "norm_at", self.norm_at, ("after", "before"))
        check_choice("ssd", "activation", self.activation, get_args(ConvActivation))
        check_number("ssd", in_scale=self.in_scale, out_scale=self.out_scale)
        if self.num_heads % self.num_groups:
            raise ConfigError(
                "heads must divide evenly over groups",
                where="ssd",
                expected=f"num_heads a multiple of num_groups = {self.num_groups}",
                received=self.num_heads,
            )
        if self.dt_min < 0 or (self.dt_max is not None and self.dt_max < self.dt_min):
            raise ConfigError(
                "step sizes lie between two numbers, 0 the least", where="ssd", received=(self.dt_min, self.dt_max)
            )
        if self.norm:
            norm_shapes("ssd.norm", self.channels, self.norm)  # its groups fit, or it says why not
        if len(self.scales) != 5:
            raise ConfigError("z, u, B, C and Δ have a scale each", where="ssd", received=len(self.scales))

    @property
    def channels(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def group_size(self) -> int:
        """Numbers of B, or C, of a token."""
        return self.num_groups * self.state_size

    @property
    def convolved(self) -> dict[str, int]:
        """The maps that are convolved, and their widths."""
        return {"u": self.channels, "b": self.group_size, "c": self.group_size}

    @property
    def projected(self) -> dict[str, int]:
        """The maps of the input, and their widths, in the order of ``scales`` and of files that have them in one."""
        return {"z": self.channels, **self.convolved, "dt": self.num_heads}

    def scale_of(self, part: str) -> float:
        return self.scales[list(self.projected).index(part)]

    def weight_shapes(self, prefix: str, d_model: int) -> dict[str, tuple[int, ...]]:
        """Its weights: ``{"layers.0.ssd.z_proj.weight": (5120, 2560), …}`` for ``layers.0.ssd.``."""
        shapes: dict[str, tuple[int, ...]] = {}
        for part, size in self.projected.items():
            shapes |= linear_shapes(f"{prefix}{part}_proj", size, d_model, self.bias)
        for part, size in self.convolved.items():
            shapes |= conv_shapes(f"{prefix}{part}_conv", size, self.width, self.conv_bias)
        shapes |= {f"{prefix}{name}": (self.num_heads,) for name in ("dt_bias", "A_log", "D")}
        if self.norm:
            shapes |= norm_shapes(f"{prefix}norm", self.channels, self.norm)
        return shapes | linear_shapes(f"{prefix}o_proj", d_model, self.channels, self.o_bias)

    def resized(self, d_model: int, num_heads: int, head_dim: int) -> Mamba2Config:
        """Twice as many channels as the stream has, in heads of attention's size; one group where the heads are odd."""
        groups = math.gcd(self.num_groups, 2 * num_heads)
        norm = None if self.norm is None else replace(self.norm, groups=groups)
        return replace(self, num_heads=2 * num_heads, head_dim=head_dim, num_groups=groups, norm=norm)

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        kept = {part: (self.width - 1, size) for part, size in self.convolved.items()}
        return kept | {"h": (self.num_heads, self.head_dim, self.state_size)}
