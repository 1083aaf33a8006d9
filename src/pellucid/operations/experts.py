"""Experts: the weighted sum of what the chosen MLPs make of a token, and of a shared one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.config import ExpertsConfig, MLPConfig
from pellucid.operations.activation import Activation
from pellucid.operations.cell import Look, Operands, Sum, Term, by_size
from pellucid.operations.linear import product
from pellucid.operations.numbers import Numbers, Weights
from pellucid.operations.operation import Line, Operation, Sentence, Weight
from pellucid.operations.places import Places


@dataclass(frozen=True, kw_only=True)
class Experts(Operation):
    """Σ_e w_e · MLP_e(x), or Σ_e MLP_e(w_e · x), + MLP_shared(x), times σ(x W_gᵀ) where that is gated.

    Source: Shazeer et al. 2017; Dai et al. 2024 (DeepSeekMoE) §3.2, shared experts.
    """

    kind = "experts"
    holds = Sentence("y is the experts' weighted sum", "y 是各专家输出的加权和")
    reads = (
        *(f"ExpertsConfig.{name}" for name in ("num_experts", "weighs", "shared", "shared_gated")),
        *(f"MLPConfig.{name}" for name in ("d_ff", "activation", "gated", "bias", "alpha", "limit", "up_offset")),
    )
    rows_checked = 8
    part = "mlp"

    name: str  # layers.3.mlp
    d_model: int
    mlp: MLPConfig
    config: ExpertsConfig

    @property
    def weights(self) -> tuple[Weight, ...]:
        shapes = self.config.weight_shapes(f"{self.name}.", self.d_model, self.mlp)
        own = (f"{self.name}.experts.", f"{self.name}.shared")  # the router's are of other steps
        return tuple(Weight(name, shape) for name, shape in shapes.items() if name.startswith(own))

    def equation(self, result: str, *inputs: str) -> str:
        x, w = inputs
        each = (
            rf"{w}_{{t,e}}\, \operatorname{{MLP}}_e({x}_t)"
            if self.config.weighs == "output"
            else rf"\operatorname{{MLP}}_e({w}_{{t,e}}\, {x}_t)"
        )
        latex = rf"{result}_t = \sum_{{e}} {each}"
        if self.config.shared:
            gate = rf"\sigma({x}_t W_g^\top)\, " if self.config.shared_gated else ""
            latex += rf" + {gate}\operatorname{{MLP}}_{{\text{{shared}}}}({x}_t)"
        return latex

    def line(self, name: str) -> Line:
        return Line("model.moe", "MoE.mix", "weighted =")

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        x, shares = inputs
        y = np.zeros_like(x)
        for e in range(self.config.num_experts):
            rows = shares[..., e] != 0
            if rows.any():
                y[rows] += self.weighed(e, shares[..., e][rows][:, None], x[rows], weights)
        return y + self.shared(x, weights) if self.config.shared else y

    def cell(self, look: Look) -> Operands:
        """A term an expert that counts: what it makes of the token, with its weight; one for the shared expert, which
        has no weight.
        """
        (source, shares), (text, _, d) = look.inputs, look.at
        column, weights = look.column(source), look.run.weights
        x, w = look.row(source, text, column), look.row(shares, text, column)
        terms = []
        for e in np.flatnonzero(w).tolist():
            made = float(self.weighed(e, w[e], x, weights)[d])
            terms.append(Term(made, (look.step(shares, (text, column, e), w[e]),)))
        if self.config.shared:
            terms.append(Term(float(self.shared(x, weights)[d]), ()))
        made = Sum(by_size(terms))
        return look.operands(recomputed=sum(term.value for term in terms), of=made, latex=made.latex)

    def expert(self, e: int, x: Numbers, weights: Weights) -> Numbers:
        """What one expert makes of rows."""
        return through(f"{self.name}.experts.{e}", self.mlp, x, weights)

    def weighed(self, e: int, share: Any, x: Numbers, weights: Weights) -> Numbers:
        """What one expert adds to rows."""
        if self.config.weighs == "input":
            return self.expert(e, share * x, weights)
        return share * self.expert(e, x, weights)

    def shared(self, x: Numbers, weights: Weights) -> Numbers:
        """What the shared expert makes of rows, as much of it as its gate lets through."""
        assert self.config.shared
        made = through(f"{self.name}.shared", self.config.shared, x, weights)
        if not self.config.shared_gated:
            return made
        return made / (1 + np.exp(-product(x, weights[f"{self.name}.shared_gate.weight"])))


def through(name: str, mlp: MLPConfig, x: Numbers, weights: Weights) -> Numbers:
    """What one MLP makes of rows, by its weights."""

    def linear(part: str, x: Numbers) -> Numbers:
        bias = weights[f"{name}.{part}.bias"] if mlp.bias else None
        return product(x, weights[f"{name}.{part}.weight"], bias)

    act = Activation.made(mlp, name)
    if mlp.gated:
        opened = act.of(mlp.gate_scale * linear("gate_proj", x), weights)
        return mlp.down_scale * linear("down_proj", opened * act.up(linear("up_proj", x)))
    return mlp.down_scale * linear("down_proj", act.of(linear("up_proj", x), weights))
