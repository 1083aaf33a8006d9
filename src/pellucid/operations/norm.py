"""Norm: a vector brought to a common scale; over a sum where it stands after one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.config import NormConfig
from pellucid.operations.cell import Look, Operands, factor, number
from pellucid.operations.numbers import Numbers, Weights, by_head, side_by_side, wide
from pellucid.operations.operation import Identity, Line, Operation, Passed, Sentence, Weight
from pellucid.operations.places import Places

NORMALIZED = Identity(
    "normalized",
    Sentence("mean 0 and deviation 1 before γ and β", "乘 γ 加 β 之前，均值为 0、标准差为 1"),
    r"\operatorname{mean}(\hat x) = 0, \quad \operatorname{mean}(\hat x^2) = \frac{\sigma^2}{\sigma^2 + \epsilon}",
)
UNIT_RMS = Identity(
    "unit_rms",
    Sentence("root mean square 1 before γ", "乘 γ 之前，均方根为 1"),
    r"\operatorname{mean}(\hat x^2) = \frac{\operatorname{mean}(x^2)}{\operatorname{mean}(x^2) + \epsilon}",
)
SEEN = 0.01  # of the largest γ: below it a result says too little of what was before γ


@dataclass(frozen=True, kw_only=True)
class Norm(Operation):
    """``layer``: (x − μ) / √(σ² + eps) · γ + β. ``rms``: x / √(mean(x²) + eps) · γ. γ = offset + the weight.

    Over the last axis; ``heads``: over all heads of a position as one vector of that ``width``. Several inputs: the
    norm of their sum. Source: Ba et al. 2016; Zhang & Sennrich 2019.
    """

    kind = "norm"
    holds = Sentence("the norm's output is γ ⊙ x̂ + β", "归一化的输出为 γ ⊙ x̂ + β")
    identities = (NORMALIZED, UNIT_RMS)
    reads = (
        *(f"NormConfig.{name}" for name in ("kind", "eps", "weight", "bias", "offset", "groups", "wide")),
        *(f"AttentionConfig.{name}" for name in ("qk_norm", "qk_norm_over", "qk_norm_at")),
        "LatentAttentionConfig.latent_norm",
        "DeltaNetConfig.norm",
        "AttentionConfig.v_norm",
        "SideConfig.norm",
        *("MambaConfig.inner_norm", "Mamba2Config.norm", "Mamba2Config.norm_at"),
    )

    name: str
    width: int
    config: NormConfig
    heads: int | None = None

    @property
    def weights(self) -> tuple[Weight, ...]:
        kinds = (kind for kind in ("weight", "bias") if getattr(self.config, kind))
        return tuple(Weight(f"{self.name}.{kind}", (self.width,)) for kind in kinds)

    def equation(self, result: str, *inputs: str) -> str:
        x = inputs[0] if len(inputs) == 1 else f"({' + '.join(inputs)})"
        gamma = r"\gamma \odot " if self.config.weight else ""
        gamma = rf"({self.config.offset:g} + \gamma) \odot " if self.config.offset else gamma
        if self.config.kind == "rms":
            mean = r"\operatorname{mean}" + ("_{g}" if self.config.groups > 1 else "")
            scaled = rf"{gamma}\frac{{{x}}}{{\sqrt{{{mean}({x}^2) + \epsilon}}}}"
        else:
            of = "_{g}" if self.config.groups > 1 else ""
            scaled = rf"{gamma}\frac{{{x} - \mu{of}}}{{\sqrt{{\sigma{of}^2 + \epsilon}}}}"
        return f"{result} = {scaled}" + (r" + \beta" if self.config.bias else "")

    def line(self, name: str) -> Line:
        if self.config.kind == "rms":
            return Line("model.norm", "RMSNorm.forward", "return")
        of_groups = self.config.groups > 1
        return Line("model.norm", f"LayerNorm.{'_by_group' if of_groups else 'forward'}", "F.layer_norm")

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        gamma, beta = self.scale_and_shift(weights)
        return self._split(self.normalized(self._joined(inputs))[0] * gamma + beta)

    def normalized(self, x: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """(x̂, μ, √(σ² + eps)) over the last axis; for RMSNorm μ is 0 and σ² the mean square. Of groups, a number each
        place.
        """
        mean = self._spread(self._means(x)) if self.config.kind == "layer" else np.zeros_like(x[..., :1])
        deviation = self._spread(np.sqrt(self._means(np.square(x - mean)) + self.config.eps))
        return (x - mean) / deviation, mean, deviation

    def _means(self, x: Numbers) -> Numbers:
        """(…, groups)"""
        return x.reshape(*x.shape[:-1], self.config.groups, -1).mean(-1)

    def _spread(self, x: Numbers) -> Numbers:
        """(…, groups) → a number each place; of one group, the one."""
        return np.repeat(x, self.width // self.config.groups, -1) if self.config.groups > 1 else x

    def scale_and_shift(self, weights: Weights) -> tuple[Numbers, Numbers]:
        """γ and β; 1 where there is no γ, 0 where there is no β."""
        if not self.config.weight:
            return np.ones(self.width), np.zeros(self.width)
        gamma, *beta = (wide(weights[weight.name]) for weight in self.weights)
        return self.config.offset + gamma, beta[0] if beta else np.zeros_like(gamma)

    def _joined(self, inputs: Sequence[Numbers]) -> Numbers:
        """What is normed: the inputs' sum, with all heads side by side where it is over all of them."""
        x = sum(inputs[1:], inputs[0])
        return x if self.heads is None else side_by_side(x)

    def _split(self, y: Numbers) -> Numbers:
        return y if self.heads is None else by_head(y, self.width // self.heads)

    def cell(self, look: Look) -> Operands:
        *before, i = look.at
        if self.heads is None:
            rows, index = [look.row(path, *before) for path in look.inputs], i
        else:  # the position's heads, side by side
            text, head, column = before
            rows = [look.row(path, text, slice(None), column).reshape(-1) for path in look.inputs]
            index = head * (self.width // self.heads) + i
        x = sum(rows[1:], rows[0])
        _, mean, deviation = (float(part[..., index % part.shape[-1]]) for part in self.normalized(x))
        leads = [look.step(path, look.at, row[index]) for path, row in zip(look.inputs, rows, strict=True)]
        cells = tuple(look.weight(weight.name, (index,)) for weight in self.weights)
        gamma, beta = cells[:1], cells[1:]
        scale, value = self.config.offset + (gamma[0].value if gamma else 1.0), float(x[index])
        shifted = number(value) if self.config.kind == "rms" else f"{number(value)} - {factor(mean)}"
        times = rf"{factor(gamma[0].value)} \cdot " if gamma else ""
        times = rf"({self.config.offset:g} + {factor(gamma[0].value)}) \cdot " if self.config.offset else times
        parts = {"x": value, "mu": mean, "sigma": deviation, "eps": self.config.eps, "gamma": scale}
        return look.operands(
            recomputed=(value - mean) / deviation * scale + sum(cell.value for cell in beta),
            leads=(*leads, *cells),
            parts=parts | ({"beta": beta[0].value} if beta else {}),
            latex=rf"{times}\frac{{{shifted}}}{{{number(deviation)}}}"
            + "".join(f" + {factor(cell.value)}" for cell in beta),
        )

    def errors(self, values: Numbers, inputs: Sequence[Numbers], weights: Weights) -> Iterator[tuple[Identity, float]]:
        """x̂ as the result has it, (y − β) / γ; where γ is next to nothing, as the input has it."""
        gamma, beta = self.scale_and_shift(weights)
        x, y = self._joined(inputs), values if self.heads is None else side_by_side(values)
        exact, _, deviation = self.normalized(x)
        told = np.abs(gamma) >= SEEN * np.abs(gamma).max()
        hat = np.where(told, (y - beta) / np.where(told, gamma, 1.0), exact)
        square = self._means(np.square(hat) - (1 - self.config.eps / np.square(deviation)))
        if self.config.kind == "rms":
            yield UNIT_RMS, float(np.abs(square).max())
        else:
            yield NORMALIZED, float(max(np.abs(self._means(hat)).max(), np.abs(square).max()))

    def back(self, direction: Numbers, inputs: Sequence[Numbers], weights: Weights) -> Passed:
        """With σ held: through γ / σ, and for LayerNorm without the direction's own mean. β is a constant."""
        (gamma, beta), shape, x = self.scale_and_shift(weights), direction.shape, sum(inputs[1:], inputs[0])
        if self.heads is not None:  # side by side
            direction, x = direction.reshape(-1), x.reshape(-1)
        before = direction * gamma / self.normalized(x)[2]
        before = before - self._spread(self._means(before)) if self.config.kind == "layer" else before
        constants = {self.weights[1].name: float(beta @ direction)} if self.config.bias else {}
        return Passed((before.reshape(shape),) * len(inputs), constants)

    def forth(self, part: Numbers, source: int, inputs: Sequence[Numbers], weights: Weights) -> Numbers:
        """With σ held: without its own mean for LayerNorm, then through γ / σ."""
        gamma, shape, x = self.scale_and_shift(weights)[0], part.shape, sum(inputs[1:], inputs[0])
        if self.heads is not None:
            part, x = part.reshape(-1), x.reshape(-1)
        part = part - self._spread(self._means(part)) if self.config.kind == "layer" else part
        return (part * gamma / self.normalized(x)[2]).reshape(shape)
