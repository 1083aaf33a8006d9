"""Gated DeltaNet, a mixer with a memory that each token corrects (Qwen3-Next, OLMo hybrid, Kimi Linear)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pellucid.base.errors import ConfigError
from pellucid.base.typed import check_fields
from pellucid.config.checks import check_choice, check_number, check_size
from pellucid.config.mlp import linear_shapes
from pellucid.config.norm import NormConfig, norm_shapes
from pellucid.config.recurrent import Recurrent, conv_shapes


@dataclass(frozen=True, kw_only=True)
class DeltaNetConfig(Recurrent):
    """Each head has a memory, a matrix S of keys by values. A token lets it fade, corrects what it says to the token's
    key by a part β of what it says wrongly, and asks it with its query:

        S' = α S,   S = S' + k (β (v − S'ᵀ k))ᵀ,   z = Sᵀ q / √E,   α = exp(−e^A · softplus(d + b)),   β = scale · σ(·)

    with q, k and v convolved over ``conv_width`` tokens, through silu; q and k of length 1; z normed by head and gated.
    ``decay_by`` head: one α a head; channel: one for each row of S. A rank: d, or the gate, comes through a
    narrow map first. Source: Yang et al. 2024 (Gated Delta Networks) §3; Kimi Team 2025 (Kimi Linear).
    """

    name: ClassVar[str] = "delta_net"  # of the mixer in its weights' names
    wide_state: ClassVar[tuple[str, ...]] = ("memory",)

    num_heads: int
    num_key_heads: int  # num_heads / num_key_heads heads share a query and a key
    key_head_dim: int
    value_head_dim: int
    conv_width: int
    norm: NormConfig  # of each head's result
    gate: Literal["silu", "sigmoid"] = "silu"
    decay_by: Literal["head", "channel"] = "head"
    decay_rank: int | None = None
    gate_rank: int | None = None
    beta_scale: float = 1.0  # 2: a correction may overshoot, and S have negative eigenvalues

    def __post_init__(self) -> None:
        check_fields(self, "delta net")
        sizes = {name: getattr(self, name) for name in ("num_heads", "num_key_heads", "key_head_dim", "value_head_dim")}
        check_size("delta net", conv_width=self.conv_width, **sizes)
        ranks = {name: rank for name in ("decay_rank", "gate_rank") if (rank := getattr(self, name)) is not None}
        check_size("delta net", **ranks)
        check_number("delta net", beta_scale=self.beta_scale)
        check_choice("delta net", "gate", self.gate, ("silu", "sigmoid"))
        check_choice("delta net", "decay_by", self.decay_by, ("head", "channel"))
        if self.num_heads % self.num_key_heads:
            raise ConfigError(
                "heads must divide evenly over those of keys",
                where="delta net",
                expected=f"num_heads a multiple of num_key_heads = {self.num_key_heads}",
                received=self.num_heads,
                remedy="check linear_num_key_heads and linear_num_value_heads in config.json",
            )

    @property
    def q_dim(self) -> int:
        """Numbers of all queries, or keys."""
        return self.num_key_heads * self.key_head_dim

    @property
    def v_dim(self) -> int:
        return self.num_heads * self.value_head_dim

    @property
    def decay_dim(self) -> int:
        """Numbers that say how fast a token lets the memory fade."""
        return self.num_heads * (self.key_head_dim if self.decay_by == "channel" else 1)

    def weight_shapes(self, prefix: str, d_model: int) -> dict[str, tuple[int, ...]]:
        """Its weights: ``{"layers.0.delta_net.q_proj.weight": (2048, 2048), …}`` for ``layers.0.delta_net.``."""
        shapes: dict[str, tuple[int, ...]] = {}
        convolved = {"q": self.q_dim, "k": self.q_dim, "v": self.v_dim}
        for part, width in convolved.items():
            shapes |= linear_shapes(f"{prefix}{part}_proj", width, d_model, False)
        for part, width in convolved.items():
            shapes |= conv_shapes(f"{prefix}{part}_conv", width, self.conv_width, False)
        shapes |= _through(f"{prefix}decay", self.decay_dim, d_model, self.decay_rank)
        shapes |= {f"{prefix}A_log": (self.num_heads,), f"{prefix}dt_bias": (self.decay_dim,)}
        shapes |= linear_shapes(f"{prefix}beta_proj", self.num_heads, d_model, False)
        shapes |= norm_shapes(f"{prefix}z_norm", self.value_head_dim, self.norm)
        shapes |= _through(f"{prefix}gate", self.v_dim, d_model, self.gate_rank)
        return shapes | linear_shapes(f"{prefix}o_proj", d_model, self.v_dim, False)

    def resized(self, d_model: int, num_heads: int, head_dim: int) -> DeltaNetConfig:
        ranks = {name: head_dim for name in ("decay_rank", "gate_rank") if getattr(self, name) is not None}
        sizes = {"num_heads": num_heads, "num_key_heads": num_heads, "key_head_dim": head_dim}
        return replace(self, value_head_dim=head_dim, **sizes, **ranks)

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        kept = self.conv_width - 1
        memory = (self.num_heads, self.key_head_dim, self.value_head_dim)
        return {"q": (kept, self.q_dim), "k": (kept, self.q_dim), "v": (kept, self.v_dim), "memory": memory}


def _through(name: str, out: int, into: int, rank: int | None) -> dict[str, tuple[int, ...]]:
    """A linear map, or two through a narrow waist."""
    if rank is None:
        return linear_shapes(f"{name}_proj", out, into, False)
    return linear_shapes(f"{name}_a_proj", rank, into, False) | linear_shapes(f"{name}_b_proj", out, rank, False)
