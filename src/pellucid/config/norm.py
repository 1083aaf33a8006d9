"""Norms of a description, and the weights that they have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pellucid.base.errors import ConfigError
from pellucid.base.typed import check_fields
from pellucid.config.checks import check_choice, check_number, check_size


@dataclass(frozen=True, kw_only=True)
class NormConfig:
    """Layer normalization, before γ and β (bias). γ is ``offset`` + the weight: Gemma's files hold what γ has beyond 1.
    ``groups``: a vector is so many parts, each brought to the scale by itself.

    ``layer``: (x − μ) / √(σ² + eps) · γ + β (Ba et al. 2016). ``rms``: x / √(mean(x²) + eps) · γ (Zhang & Sennrich
    2019). The offset is no transform of the weight: half of the float32 numbers near ¼ equal no 1 + w.
    """

    kind: Literal["layer", "rms"] = "rms"
    eps: float = 1e-5
    weight: bool = True  # False: γ is 1
    bias: bool = False
    offset: float = 0.0
    groups: int = 1
    wide: bool = False  # γ multiplies in float32, before x̂ is rounded to 16 bits; else after (an offset: before, too)

    def __post_init__(self) -> None:
        check_fields(self, "norm")
        check_choice("norm", "kind", self.kind, ("layer", "rms"))
        check_number("norm", eps=self.eps)
        check_size("norm", groups=self.groups)
        if not self.weight and (self.bias or self.offset):
            raise ConfigError("a norm without a weight has no bias and no offset either", where="norm")


def norm_shapes(name: str, width: int, norm: NormConfig) -> dict[str, tuple[int, ...]]:
    """Raises: ConfigError where the groups do not divide the width."""
    if width % norm.groups:
        raise ConfigError(
            "groups must divide what is normed", where=name, expected=f"a divisor of {width}", received=norm.groups
        )
    return {f"{name}.{kind}": (width,) for kind in ("weight", "bias") if getattr(norm, kind)}
