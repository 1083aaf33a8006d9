"""The MLP of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pellucid.base.errors import ConfigError
from pellucid.base.typed import check_fields
from pellucid.config.checks import check_choice, check_number, check_size

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2", "xielu"]  # relu2: relu(x)²
XIELU = ("alpha_p", "alpha_n", "beta", "eps")  # the numbers of a layer's xIELU: two are learned, two as they came


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """down(act(up(x))), or gated: down(act(gate(x)) ⊙ up(x)) (Shazeer 2020).

    ``alpha``: silu is x σ(alpha · x). ``limit``: what a gate lets through is first brought below it, and what it
    multiplies within ±limit. ``up_offset`` is added to what the gate multiplies. Source: OpenAI 2025 (gpt-oss).
    """

    d_ff: int
    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False
    alpha: float = 1.0
    limit: float | None = None
    up_offset: float = 0.0
    gate_scale: float = 1.0  # multiplies what the gate activates
    down_scale: float = 1.0  # multiplies what comes out

    def __post_init__(self) -> None:
        check_fields(self, "mlp")
        check_size("mlp", d_ff=self.d_ff)
        check_number("mlp", alpha=self.alpha, gate_scale=self.gate_scale, down_scale=self.down_scale)
        if self.limit is not None:
            check_number("mlp", limit=self.limit)
        if self.alpha != 1 and self.activation != "silu":
            raise ConfigError("alpha is silu's", where="mlp", received=self.activation)
        if (self.limit is not None or self.up_offset or self.gate_scale != 1) and not self.gated:
            raise ConfigError("limit, up_offset and gate_scale are a gated MLP's", where="mlp")
        check_choice("mlp", "activation", self.activation, get_args(Activation))


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
    if mlp.activation == "xielu":
        shapes |= {f"{prefix}xielu.{name}": (1,) for name in XIELU}
    return shapes
