"""Rates: how fast a token lets a memory fade, and how much of what it says wrongly a token corrects."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.operations.cell import Look, Operands, factor, number
from pellucid.operations.numbers import Numbers, Weights, wide
from pellucid.operations.operation import Identity, Line, Operation, Sentence, Weight
from pellucid.operations.places import Places
from pellucid.operations.product import opened

FADES = Identity("fades", Sentence("a memory only fades", "记忆只会减弱"), r"\ln \alpha \le 0")


@dataclass(frozen=True, kw_only=True)
class Decay(Operation):
    """ln α = −e^A · softplus(d + bias); e^A is a head's, the bias a head's or a channel's (``channels`` of a head).

    Source: Gu & Dao 2023 (Mamba) §3.6, Yang et al. 2024 (Gated Delta Networks); Kimi Team 2025 (channels).
    """

    kind = "decay"
    holds = Sentence("the memory fades as fast as the token says", "记忆减弱的快慢由词元决定")
    identities = (FADES,)
    reads = ("DeltaNetConfig.decay_by", "DeltaNetConfig.decay_rank")

    name: str  # layers.3.delta_net
    heads: int
    channels: int | None = None

    @property
    def weights(self) -> tuple[Weight, ...]:
        biases = self.heads * (self.channels or 1)
        return Weight(f"{self.name}.A_log", (self.heads,)), Weight(f"{self.name}.dt_bias", (biases,))

    def equation(self, result: str, *inputs: str) -> str:
        return rf"{result} = -e^{{A}}\, \operatorname{{softplus}}({inputs[0]} + b)"

    def line(self, name: str) -> Line:
        return Line("model.delta_net", "DeltaNet._decay", "softplus(")

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        rate, bias = (wide(weights[weight.name]) for weight in self.weights)
        if self.channels is None:  # (…, T, H)
            return -np.exp(rate) * np.logaddexp(0.0, inputs[0] + bias)
        rate, bias = rate[:, None, None], bias.reshape(self.heads, 1, self.channels)  # (…, H, T, E)
        return -np.exp(rate) * np.logaddexp(0.0, inputs[0] + bias)

    def cell(self, look: Look) -> Operands:
        head = look.at[-1] if self.channels is None else look.at[1]
        place = head if self.channels is None else head * self.channels + look.at[-1]
        own = look.step(look.inputs[0], look.at)
        rate, bias = (look.weight(weight.name, (i,)) for weight, i in zip(self.weights, (head, place), strict=True))
        soft = float(np.logaddexp(0.0, own.value + bias.value))
        return look.operands(
            recomputed=-math.exp(rate.value) * soft,
            leads=(own, rate, bias),
            parts={"softplus": soft, "rate": math.exp(rate.value)},
            latex=rf"-e^{{{number(rate.value)}}} \operatorname{{softplus}}({number(own.value)} + {factor(bias.value)})",
        )

    def errors(self, values: Numbers, inputs: Sequence[Numbers], weights: Weights) -> Iterator[tuple[Identity, float]]:
        yield FADES, max(float(values.max()), 0.0)


@dataclass(frozen=True, kw_only=True)
class Share(Operation):
    """β = s · σ(b). Source: Schlag et al. 2021 (the delta rule); Grazzi et al. 2024 (s = 2)."""

    kind = "share"
    holds = Sentence("β is σ of what the token says", "β 是词元所给的数的 σ")
    reads = ("DeltaNetConfig.beta_scale",)

    scale: float = 1.0

    def equation(self, result: str, *inputs: str) -> str:
        scale = "" if self.scale == 1 else rf"{self.scale:.4g} \cdot "
        return rf"{result} = {scale}\sigma({inputs[0]})"

    def line(self, name: str) -> Line:
        return Line("model.delta_net", "DeltaNet._through", '"beta"')

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        return self.scale * opened("sigmoid", inputs[0])

    def cell(self, look: Look) -> Operands:
        own = look.step(look.inputs[0], look.at)
        recomputed = self.scale * float(opened("sigmoid", wide(own.value)))
        return look.operands(
            recomputed=recomputed,
            leads=(own,),
            parts={"scale": self.scale},
            latex=self.equation("", number(own.value))[3:],
        )
