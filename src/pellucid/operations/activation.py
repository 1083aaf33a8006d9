"""Activation: what makes a layer more than one linear map; with a gate, the result multiplies a second branch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.config import XIELU, MLPConfig
from pellucid.operations.cell import Look, Operands, factor, number
from pellucid.operations.numbers import Numbers, Weights, wide
from pellucid.operations.operation import Line, Operation, Sentence, Weight
from pellucid.operations.places import Places

_erf = np.vectorize(math.erf, otypes=[np.float64])
FUNCTIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: np.maximum(x, 0.0),
    "relu2": lambda x: np.square(np.maximum(x, 0.0)),
}


def xielu(x: Numbers, a_p: float, a_n: float, beta: float, eps: float) -> Numbers:
    positive, negative = np.logaddexp(0.0, a_p), beta + np.logaddexp(0.0, a_n)
    return np.where(x > 0, positive * x * x, negative * (np.expm1(np.minimum(x, eps)) - x)) + beta * x


@dataclass(frozen=True, kw_only=True)
class Activation(Operation):
    """act(g), or gated: act(g) ⊙ u. Source: Hendrycks & Gimpel 2016 (GELU); Shazeer 2020 (gated); Huang & Schlag 2024.

    ``alpha``: silu is g σ(alpha · g); ``limit``: of min(g, limit), and u within ±limit; ``offset``: u + offset.
    ``xielu`` has weights, of ``name``: α_p x² + β x where x > 0, else α_n (e^min(x, ε) − 1 − x) + β x, with
    α_p = log(1 + e^a_p), α_n = β + log(1 + e^a_n).
    """

    kind = "activation"
    holds = Sentence("neurons are the activation's output", "神经元等于激活函数的输出")
    reads = (
        *(f"MLPConfig.{name}" for name in ("activation", "gated", "alpha", "limit", "up_offset")),
        "SideConfig.activation",
        *("MambaConfig.activation", "Mamba2Config.activation"),
    )
    part = "mlp"

    function: str
    gated: bool
    alpha: float = 1.0
    limit: float | None = None
    offset: float = 0.0
    name: str = ""
    code: Line | None = None  # where it is no MLP's

    @classmethod
    def made(cls, mlp: MLPConfig, name: str) -> Activation:
        """That of an MLP of this name."""
        return cls(
            function=mlp.activation,
            gated=mlp.gated,
            alpha=mlp.alpha,
            limit=mlp.limit,
            offset=mlp.up_offset,
            name=f"{name}.xielu",
        )

    @property
    def weights(self) -> tuple[Weight, ...]:
        return tuple(Weight(f"{self.name}.{own}", (1,)) for own in XIELU) if self.function == "xielu" else ()

    def equation(self, result: str, *inputs: str) -> str:
        g, *up = inputs
        act = self._latex(g if self.limit is None else rf"\operatorname{{min}}({g}, {self.limit:g})")
        return rf"{result} = {act}" + (rf" \odot {self._up_latex(*up)}" if self.gated else "")

    def _up_latex(self, u: str) -> str:
        if self.limit is not None:
            u = rf"\operatorname{{clip}}({u}, \pm {self.limit:g})"
        return rf"({u} + {self.offset:g})" if self.offset else u

    def _latex(self, x: str) -> str:
        if self.alpha != 1:
            return rf"{x}\, \sigma({self.alpha:g}\, {x})"
        square = "^2" if self.function == "relu2" else ""
        return rf"\operatorname{{{self.function.removesuffix('_tanh').removesuffix('2')}}}({x}){square}"

    def line(self, name: str) -> Line:
        if name == "side_act":
            return Line("model.side", "Side.forward", f'"{name}"')
        if self.code is not None:
            return self.code
        return Line(
            "model.mlp", "MLP.forward", "act = self.activate(gate" if self.gated else '"mlp_pre", self.up_proj('
        )

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return self.of(inputs[0], weights) * (self.up(inputs[1]) if self.gated else 1.0)

    def of(self, x: Numbers, weights: Weights | None = None) -> Numbers:
        x = x if self.limit is None else np.minimum(x, self.limit)
        if self.function == "xielu":
            assert weights is not None
            return xielu(x, *(wide(weights[name])[0] for name, _ in self.weights))
        with np.errstate(over="ignore"):  # exp of a large number is infinite, and what is divided by it 0
            return FUNCTIONS[self.function](self.alpha * x) / self.alpha

    def up(self, x: Numbers) -> Numbers:
        """What the gate multiplies."""
        return (x if self.limit is None else np.clip(x, -self.limit, self.limit)) + self.offset

    def cell(self, look: Look) -> Operands:
        gate, *up = cells = tuple(look.step(path, look.at) for path in look.inputs)
        own = tuple(look.weight(name, (0,)) for name, _ in self.weights)
        act = float(self.of(wide(gate.value), {cell.name: [cell.value] for cell in own}))
        latex = self._latex(number(gate.value if self.limit is None else min(gate.value, self.limit)))
        for cell in up:
            through = float(self.up(wide(cell.value)))
            latex += rf" \cdot {factor(through)} = {number(act)} \cdot {factor(through)}"
        recomputed = act * (float(self.up(wide(up[0].value))) if up else 1.0)
        return look.operands(recomputed=recomputed, leads=(*cells, *own), parts={"activation": act}, latex=latex)

    def shares(self, value: Numbers, direction: Numbers) -> Numbers:
        """(F,) of each neuron."""
        return value * direction
