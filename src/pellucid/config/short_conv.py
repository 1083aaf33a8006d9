"""The gated short convolution, a mixer that looks a few tokens back (LFM2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pellucid.base.typed import check_fields
from pellucid.config.checks import check_size
from pellucid.config.mlp import linear_shapes
from pellucid.config.recurrent import Recurrent, conv_shapes


@dataclass(frozen=True, kw_only=True)
class ShortConvConfig(Recurrent):
    """(c ⊙ conv(b ⊙ u)) W_oᵀ with b, c and u three linear maps of the input; conv weighs each channel's last ``width``
    tokens, its own among them. Source: Liquid AI 2025 (LFM2).
    """

    name: ClassVar[str] = "short_conv"  # of the mixer in its weights' names

    channels: int
    width: int
    bias: bool = False  # of the four linear maps and of the convolution

    def __post_init__(self) -> None:
        check_fields(self, "short convolution")
        check_size("short convolution", channels=self.channels, width=self.width)

    def weight_shapes(self, prefix: str, d_model: int) -> dict[str, tuple[int, ...]]:
        """Its weights: ``{"layers.0.short_conv.b_proj.weight": (1024, 1024), …}`` for ``layers.0.short_conv.``."""
        shapes: dict[str, tuple[int, ...]] = {}
        for part in ("b", "c", "u"):
            shapes |= linear_shapes(f"{prefix}{part}_proj", self.channels, d_model, self.bias)
        shapes |= conv_shapes(f"{prefix}conv", self.channels, self.width, self.bias)
        return shapes | linear_shapes(f"{prefix}o_proj", d_model, self.channels, self.bias)

    def resized(self, d_model: int, num_heads: int, head_dim: int) -> ShortConvConfig:
        return replace(self, channels=d_model)

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"conv": (self.width - 1, self.channels)}
