"""Attention, the mixer of most layers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pellucid.base.errors import ConfigError
from pellucid.base.typed import check_fields
from pellucid.config.checks import MAX_SIZE, check_choice, check_number, check_size
from pellucid.config.mlp import linear_shapes
from pellucid.config.norm import NormConfig, norm_shapes
from pellucid.config.rope import RopeConfig


@dataclass(frozen=True, kw_only=True)
class QueryScale:
    """Queries times 1 + beta · ln(1 + ⌊(position + offset) / every⌋): sharper where there is more to look at."""

    beta: float
    every: int
    offset: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "query scale")
        check_number("query scale", beta=self.beta)
        check_size("query scale", every=self.every)
        if not 0 <= self.offset < MAX_SIZE:
            raise ConfigError("offset must be a whole number", where="query scale", received=self.offset)


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """softmax(q kᵀ · scale + mask) v, by head; ``num_heads / num_kv_heads`` query heads share a key-value head."""

    name: ClassVar[str] = "attention"  # of the mixer in its weights' names

    num_heads: int
    num_kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: NormConfig | None = None  # normalizes q and k
    # each head by itself, with one γ for all, or with its own; or all heads as one vector
    qk_norm_over: Literal["head", "each", "all"] = "head"
    qk_norm_at: Literal["before", "after"] = "before"  # rotation
    v_head_dim: int | None = None  # numbers of a value, where they are not as many as a key's
    v_scale: float = 1.0  # values are multiplied by it
    v_norm: NormConfig | None = None  # normalizes each head's values
    keys_are_values: bool = False  # values are keys as they were projected, before norms and rotation
    kv_from: int | None = None  # the layer whose keys and values it looks at, having none of its own
    rope: RopeConfig | None = None
    window: int | None = None  # a query sees this many positions, its own included; None: all before it
    chunk: int | None = None  # a query sees its own chunk of so many positions alone, counted from the text's first
    scale: float | None = None  # None: head_dim^-0.5
    softcap: float | None = None  # scores become softcap · tanh(scores / softcap)
    clip: float | None = None  # q, k and v as projected are brought within −clip … clip
    sinks: bool = False  # each head has a learned score beside its keys', whose share of the softmax is nobody's
    query_scale: QueryScale | None = None  # by position, after rotation and norms
    in_scale: float = 1.0  # multiplies the input
    k_scale: float = 1.0  # multiplies keys as projected
    out_scale: float = 1.0  # multiplies what is added
    gated: bool = False  # each number of the heads' results is multiplied by σ of one of x W_gᵀ
    alibi: float | None = None  # scores lose slope · distance, and head h of H has slope 2^(−alibi · h / H)

    def __post_init__(self) -> None:
        check_fields(self, "attention")
        check_size("attention", num_heads=self.num_heads, num_kv_heads=self.num_kv_heads, head_dim=self.head_dim)
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                "query heads must divide evenly over key-value heads",
                where="attention",
                expected=f"num_heads a multiple of num_kv_heads = {self.num_kv_heads}",
                received=self.num_heads,
                remedy="check num_attention_heads and num_key_value_heads in config.json",
            )
        if self.rope and self.rope.dim > self.head_dim:
            raise ConfigError(
                "rope rotates more dimensions than a head has",
                where="attention",
                expected=f"≤ {self.head_dim}",
                received=self.rope.dim,
            )
        check_number("attention", in_scale=self.in_scale, k_scale=self.k_scale, out_scale=self.out_scale)
        if self.window is not None:
            check_size("attention", window=self.window)
        if self.v_head_dim is not None:
            check_size("attention", v_head_dim=self.v_head_dim)
        check_number("attention", v_scale=self.v_scale)
        if self.v_scale != 1 and self.clip is not None:
            raise ConfigError("values are scaled or clipped, not both", where="attention")
        if self.keys_are_values and (self.v_head_dim is not None or self.v_scale != 1):
            raise ConfigError("values that are keys have their width and scale", where="attention")
        if self.chunk is not None:
            check_size("attention", chunk=self.chunk)
        if self.clip is not None:
            check_number("attention", clip=self.clip)
        if self.alibi is not None:
            check_number("attention", alibi=self.alibi)
        if self.kv_from is not None and (self.keys_are_values or self.v_norm):
            raise ConfigError("what is another layer's is not normed or made here", where="attention")
        check_choice("attention", "qk_norm_over", self.qk_norm_over, ("head", "each", "all"))
        check_choice("attention", "qk_norm_at", self.qk_norm_at, ("before", "after"))

    @property
    def projected(self) -> str:
        """Which of q, k and v it makes by maps of its own."""
        return "q" if self.kv_from is not None else "qk" if self.keys_are_values else "qkv"

    @property
    def q_dim(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def v_width(self) -> int:
        """Numbers of a head's value, and of its result."""
        return self.v_head_dim or self.head_dim

    @property
    def v_dim(self) -> int:
        return self.num_kv_heads * self.v_width

    @property
    def z_dim(self) -> int:
        """Numbers of all heads' results."""
        return self.num_heads * self.v_width

    def qk_norm_of(self, heads: int) -> NormConfig | None:
        """The norm of so many heads' queries or keys: of each head's part, where each has a γ of its own."""
        return replace(self.qk_norm, groups=heads) if self.qk_norm and self.qk_norm_over == "each" else self.qk_norm

    @property
    def kept(self) -> tuple[int, int, int]:
        """What the cache keeps of a token: (heads, numbers of a key, of a value)."""
        return self.num_kv_heads, self.head_dim, self.v_width

    def state_bytes(self, num_tokens: int, size: int) -> int:
        """What the cache keeps of a sequence, in numbers of ``size`` bytes."""
        if self.kv_from is not None:
            return 0
        heads, key, value = self.kept
        return heads * (key + value) * min(num_tokens, self.window or num_tokens) * size

    @property
    def softmax_scale(self) -> float:
        return self.head_dim**-0.5 if self.scale is None else self.scale

    @property
    def alibi_slopes(self) -> tuple[float, ...]:
        """What each head's scores lose a place of distance; empty where they lose nothing.

        Where H is no power of two, the slopes of the power below it come first, then every other one of the power
        above. Source: Press et al. 2022 §3 and its code (ALiBi: attention with linear biases).
        """
        if self.alibi is None:
            return ()
        below = 2 ** int(math.log2(self.num_heads))
        exponents = [(h + 1) / below for h in range(below)]
        exponents += [(2 * h + 1) / (2 * below) for h in range(self.num_heads - below)]
        return tuple(2 ** (-self.alibi * exponent) for exponent in exponents)

    def weight_shapes(self, prefix: str, d_model: int) -> dict[str, tuple[int, ...]]:
        """Its weights: ``{"layers.0.attention.q_proj.weight": (576, 576), …}`` for ``layers.0.attention.``."""
        shapes: dict[str, tuple[int, ...]] = {}
        for part in self.projected:
            width = {"q": self.q_dim, "k": self.kv_dim, "v": self.v_dim}[part]
            shapes |= linear_shapes(f"{prefix}{part}_proj", width, d_model, self.qkv_bias)
        if self.qk_norm:
            for part, width in (("q", self.q_dim), ("k", self.kv_dim))[: 1 if self.kv_from is not None else 2]:
                over = self.head_dim if self.qk_norm_over == "head" else width
                shapes |= norm_shapes(f"{prefix}{part}_norm", over, self.qk_norm)
        if self.v_norm:
            shapes |= norm_shapes(f"{prefix}v_norm", self.v_width, self.v_norm)
        if self.sinks:
            shapes[f"{prefix}sinks"] = (self.num_heads,)
        if self.gated:
            shapes |= linear_shapes(f"{prefix}gate_proj", self.z_dim, d_model, self.qkv_bias)
        return shapes | linear_shapes(f"{prefix}o_proj", d_model, self.z_dim, self.o_bias)
