"""The MLP of a layer, and mixtures of many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pellucid.base.errors import ConfigError
from pellucid.base.typed import check_fields
from pellucid.config.checks import check_choice, check_size

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]  # relu2: relu(x)²


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """down(act(up(x))), or gated: down(act(gate(x)) ⊙ up(x)) (Shazeer 2020)."""

    d_ff: int
    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "mlp")
        check_size("mlp", d_ff=self.d_ff)
        check_choice("mlp", "activation", self.activation, get_args(Activation))


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """A mixture of experts: many MLPs of one shape, of which each token goes through a few, and their weighted sum.

    With r = x W_rᵀ (a score for each expert) and S the ``experts_per_token`` largest of them, a token's result is Σ_{e
    ∈ S} w_e · MLP_e(x), w = softmax(r), or, ``normalize``, w_e / Σ_{S} w. ``shared`` is one more MLP that every token
    goes through; ``shared_gated`` multiplies what it gives by σ(x W_gᵀ), a number a token. Source: Shazeer et al. 2017;
    Jiang et al. 2024 (Mixtral) §2.1; Dai et al. 2024 (shared).
    """

    num_experts: int
    experts_per_token: int
    normalize: bool = True
    shared: MLPConfig | None = None
    shared_gated: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "experts")
        check_size("experts", num_experts=self.num_experts, experts_per_token=self.experts_per_token)
        if self.experts_per_token > self.num_experts:
            raise ConfigError(
                "a token cannot go through more experts than there are",
                where="experts",
                expected=f"at most num_experts = {self.num_experts}",
                received=self.experts_per_token,
                remedy="check num_experts_per_tok in config.json",
            )
        if self.shared_gated and self.shared is None:
            raise ConfigError("there is no shared expert to gate", where="experts")


def linear_shapes(name: str, out: int, into: int, bias: bool) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def mlp_shapes(prefix: str, d_model: int, mlp: MLPConfig) -> dict[str, tuple[int, ...]]:
    """The weights of one MLP: ``{"layers.0.mlp.gate_proj.weight": (1536, 576), …}`` for ``layers.0.mlp.``."""
    wide, back = (mlp.d_ff, d_model), (d_model, mlp.d_ff)
    maps = (
        {"gate_proj": wide, "up_proj": wide, "down_proj": back} if mlp.gated else {"up_proj": wide, "down_proj": back}
    )
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (out, into) in maps.items():
        shapes |= linear_shapes(f"{prefix}{name}", out, into, mlp.bias)
    return shapes
