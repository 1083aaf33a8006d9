"""Latent attention (MLA): keys and values of all heads are made of one narrow vector a token, and that is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pellucid.base.errors import ConfigError
from pellucid.base.typed import check_fields
from pellucid.config.attention import QueryScale
from pellucid.config.checks import check_size
from pellucid.config.mlp import linear_shapes
from pellucid.config.norm import NormConfig, norm_shapes
from pellucid.config.rope import RopeConfig


@dataclass(frozen=True, kw_only=True)
class LatentAttentionConfig:
    """softmax(q kᵀ · scale + mask) v by head, where k = [k_R; W_UK c] and v = W_UV c of a latent c = norm(W_DKV x).

    The first ``qk_rope_head_dim`` numbers of a query and of a key turn with the position: k_R = turn(W_KR x), which all
    heads share; the other ``qk_nope_head_dim`` come from the latent. With ``q_lora_rank``, queries are made of a latent
    of their own, norm(W_DQ x). Of a token c and k_R are kept: ``kv_lora_rank`` + ``qk_rope_head_dim`` numbers.
    ``latent_bias``: on the maps that read the stream. Source: DeepSeek-AI 2024 (DeepSeek-V2) §2.1.
    """

    name: ClassVar[str] = "attention"  # of the mixer in its weights' names
    softcap: ClassVar[None] = None
    chunk: ClassVar[None] = None
    alibi: ClassVar[None] = None
    alibi_slopes: ClassVar[tuple[float, ...]] = ()
    qk_norm: ClassVar[None] = None

    num_heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None = None
    latent_norm: NormConfig
    latent_bias: bool = False
    o_bias: bool = False
    rope: RopeConfig | None = None  # of all qk_rope_head_dim numbers; None: they are compared as they are
    window: int | None = None  # a query sees this many positions, its own included; None: all before it
    query_scale: QueryScale | None = None  # by position, after rotation
    scale: float | None = None  # None: (qk_nope_head_dim + qk_rope_head_dim)^-0.5

    def __post_init__(self) -> None:
        check_fields(self, "attention")
        check_size(
            "attention",
            num_heads=self.num_heads,
            kv_lora_rank=self.kv_lora_rank,
            qk_nope_head_dim=self.qk_nope_head_dim,
            qk_rope_head_dim=self.qk_rope_head_dim,
            v_head_dim=self.v_head_dim,
        )
        if self.q_lora_rank is not None:
            check_size("attention", q_lora_rank=self.q_lora_rank)
        if self.window is not None:
            check_size("attention", window=self.window)
        if self.rope and self.rope.dim != self.qk_rope_head_dim:
            raise ConfigError(
                "rope rotates the part of a head that is for it, no more and no less",
                where="attention",
                expected=f"qk_rope_head_dim = {self.qk_rope_head_dim}",
                received=self.rope.dim,
            )

    @property
    def num_kv_heads(self) -> int:
        return self.num_heads

    @property
    def head_dim(self) -> int:
        """Numbers of a query, and of a key."""
        return self.qk_rope_head_dim + self.qk_nope_head_dim

    @property
    def q_dim(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def z_dim(self) -> int:
        """Numbers of all heads' results."""
        return self.num_heads * self.v_head_dim

    @property
    def kept(self) -> tuple[int, int, int]:
        """What the cache keeps of a token: (heads, numbers of a key, of a value)."""
        return 1, self.qk_rope_head_dim + self.kv_lora_rank, 0

    def state_bytes(self, num_tokens: int, size: int) -> int:
        """What the cache keeps of a sequence, in numbers of ``size`` bytes."""
        heads, key, value = self.kept
        return heads * (key + value) * min(num_tokens, self.window or num_tokens) * size

    @property
    def softmax_scale(self) -> float:
        return self.head_dim**-0.5 if self.scale is None else self.scale

    def weight_shapes(self, prefix: str, d_model: int) -> dict[str, tuple[int, ...]]:
        """Its weights: ``{"layers.0.attention.q_proj.weight": (576, 576), …}`` for ``layers.0.attention.``."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.q_lora_rank is None:
            shapes |= linear_shapes(f"{prefix}q_proj", self.q_dim, d_model, False)
        else:
            shapes |= linear_shapes(f"{prefix}q_a_proj", self.q_lora_rank, d_model, self.latent_bias)
            shapes |= norm_shapes(f"{prefix}q_a_norm", self.q_lora_rank, self.latent_norm)
            shapes |= linear_shapes(f"{prefix}q_b_proj", self.q_dim, self.q_lora_rank, False)
        shapes |= linear_shapes(f"{prefix}kv_a_proj", self.kv_lora_rank, d_model, self.latent_bias)
        shapes |= norm_shapes(f"{prefix}kv_a_norm", self.kv_lora_rank, self.latent_norm)
        shapes |= linear_shapes(f"{prefix}k_rope_proj", self.qk_rope_head_dim, d_model, self.latent_bias)
        for part, width in (("k", self.qk_nope_head_dim), ("v", self.v_head_dim)):
            shapes |= linear_shapes(f"{prefix}{part}_b_proj", self.num_heads * width, self.kv_lora_rank, False)
        return shapes | linear_shapes(f"{prefix}o_proj", d_model, self.z_dim, self.o_bias)
