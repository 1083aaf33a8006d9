"""Rotary positions of a description, and how they are stretched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pellucid.base.errors import ConfigError
from pellucid.base.typed import check_fields, shown
from pellucid.config.checks import MAX_ROPE, check_choice, check_number, check_size


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the context a model was first trained on.

    ``linear``: positions / factor. ``dynamic``: NTK-aware, θ grows with the request's length. ``llama3``: low
    frequencies / factor, high ones kept, a ramp between. ``yarn``: Peng et al. 2023. ``longrope``: a factor for every
    frequency, one list up to ``original_context_len`` and another beyond it. ``factors``: one list always (GGUF's
    ``rope_freqs``).
    """

    kind: Literal["linear", "dynamic", "llama3", "yarn", "longrope", "factors"]
    factor: float = 1.0
    original_context_len: int | None = None
    attention_factor: float | None = None  # multiplies cos and sin; None: the kind's own default
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, "rope scaling")
        check_choice("rope scaling", "kind", self.kind, ("linear", "dynamic", "llama3", "yarn", "longrope", "factors"))
        check_number("rope scaling", factor=self.factor)
        check_number("rope scaling", beta_fast=self.beta_fast, beta_slow=self.beta_slow)
        for name in ("factor", "beta_fast", "beta_slow"):
            if not 1 / MAX_ROPE <= (value := getattr(self, name)) <= MAX_ROPE:
                raise ConfigError(f"{name} is out of range", where="rope scaling", received=shown(value))
        for name in ("attention_factor", "mscale", "mscale_all_dim"):
            if (value := getattr(self, name)) is not None and not (
                0 < value <= MAX_ROPE or (value == 0 and name != "attention_factor")
            ):
                raise ConfigError(f"{name} must be a positive number", where="rope scaling", received=shown(value))
        if self.kind in ("dynamic", "llama3", "yarn", "longrope") or self.original_context_len is not None:
            check_size("rope scaling", original_context_len=self.original_context_len or 0)
        if self.kind == "longrope" and self.original_context_len == 1:
            raise ConfigError("an original context of 1 has no logarithm to divide by", where="rope scaling")
        if self.kind == "llama3" and not 0 < self.low_freq_factor <= self.high_freq_factor:
            raise ConfigError(
                "the ramp of llama3's scaling goes from its low to its high factor",
                where="rope scaling",
                expected="0 < low_freq_factor ≤ high_freq_factor",
                received=f"{self.low_freq_factor} and {self.high_freq_factor}",
            )

    @property
    def by_length(self) -> bool:
        """True where the frequencies depend on how long the request has become."""
        return self.kind in ("dynamic", "longrope")


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding (Su et al. 2021) of the first ``dim`` dimensions of each head.

    Pair j turns by position · theta^(−2j/dim). ``half`` pairs dimension j with j + dim/2 (GPT-NeoX, Hugging Face's
    Llama); ``interleaved`` pairs 2j with 2j + 1 (the paper, GLM).
    """

    dim: int
    theta: float = 10000.0
    layout: Literal["half", "interleaved"] = "half"
    scaling: RopeScaling | None = None
    pairs: int | None = None  # so many turn, the first ones; None: all
    wide: bool = False  # turned in float32, then rounded to 16 bits; else by a cosine and sine of 16 bits

    def __post_init__(self) -> None:
        check_fields(self, "rope")
        check_size("rope", dim=self.dim)
        check_number("rope", theta=self.theta)
        check_choice("rope", "layout", self.layout, ("half", "interleaved"))
        if self.dim % 2:
            raise ConfigError(
                "rope rotates pairs of dimensions", where="rope", expected="an even dim", received=self.dim
            )
        if self.pairs is not None and not 0 <= self.pairs <= self.dim // 2:
            raise ConfigError(
                "more pairs turn than there are", where="rope", expected=f"≤ {self.dim // 2}", received=self.pairs
            )
        scaling = self.scaling
        if self.pairs is not None and scaling and scaling.by_length:
            raise ConfigError("a scaling by length turns every pair", where="rope", received=f"pairs = {self.pairs}")
        if scaling and scaling.kind == "yarn" and self.theta == 1:
            raise ConfigError("yarn divides by the logarithm of theta", where="rope", received="theta = 1")
        if scaling and scaling.kind == "dynamic" and self.dim == 2:
            raise ConfigError("dynamic scaling raises to the power dim / (dim − 2)", where="rope", received="dim = 2")
        lists = {"longrope": ("short_factors", "long_factors"), "factors": ("short_factors",)}
        for name in lists.get(scaling.kind, ()) if scaling else ():
            factors = getattr(scaling, name)
            if len(factors) != self.dim // 2 or not all(0 < factor <= MAX_ROPE for factor in factors):
                raise ConfigError(
                    f"{name} needs a positive number for each rotated pair",
                    where="rope",
                    expected=self.dim // 2,
                    received=len(factors),
                )
