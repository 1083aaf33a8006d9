"""Convolve: each channel's numbers at the last few places, weighed and added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.operations.cell import Look, Operands, Term, number
from pellucid.operations.numbers import Numbers, Weights, by_head, side_by_side, wide
from pellucid.operations.operation import Line, Operation, Sentence, Weight
from pellucid.operations.places import Places
from pellucid.operations.product import opened


@dataclass(frozen=True, kw_only=True)
class Convolve(Operation):
    """y_t = Σ_j w_j ⊙ u_{t − W + j} + b, j from 1 to W: a channel by itself, over its last W places; or silu of that.

    Before a text's first token, and at padding, u is 0. ``head_dim``: channels come, and go, cut into heads.
    """

    kind = "convolve"
    holds = Sentence("the last few places, weighed and added up", "最近几个位置的加权和")
    reads = (
        *(f"ShortConvConfig.{name}" for name in ("width", "channels", "bias")),
        *(f"DeltaNetConfig.{name}" for name in ("conv_width", "num_heads", "num_key_heads")),
        *("MambaConfig.width", "MambaConfig.conv_bias", "Mamba2Config.width", "Mamba2Config.conv_bias"),
    )
    whole = True
    part = "conv"

    name: str  # layers.3.short_conv.conv
    channels: int
    width: int
    bias: bool = False
    head_dim: int | None = None
    silu: bool = False

    @property
    def weights(self) -> tuple[Weight, ...]:
        weight = Weight(f"{self.name}.weight", (self.channels, self.width))
        return (weight, Weight(f"{self.name}.bias", (self.channels,))) if self.bias else (weight,)

    def equation(self, result: str, *inputs: str) -> str:
        u, shift = inputs[0], " + b" if self.bias else ""
        total = rf"\sum_{{j=1}}^{{{self.width}}} w_j \odot {u}_{{t-{self.width}+j}}{shift}"
        return rf"{result}_t = \operatorname{{silu}}\left({total}\right)" if self.silu else rf"{result}_t = {total}"

    def line(self, name: str) -> Line:
        return Line("model.convolve", "Convolution.forward", "sum(")

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        u = inputs[0] if self.head_dim is None else side_by_side(inputs[0])  # (…, T, C)
        u = u if places.mask is None else u * places.mask[..., None]
        weight, *bias = (wide(weights[weight.name]) for weight in self.weights)
        y = np.zeros_like(u[..., places.columns, :])
        for back in range(self.width):
            columns = places.columns - back
            y += np.where(columns[:, None] >= 0, u[..., np.maximum(columns, 0), :], 0.0) * weight[:, -1 - back]
        y = y + bias[0] if bias else y
        y = opened("silu", y) if self.silu else y
        return y if self.head_dim is None else by_head(y, self.head_dim)

    def cell(self, look: Look) -> Operands:
        (source,), text = look.inputs, look.text
        channel = look.at[-1] if self.head_dim is None else look.at[1] * self.head_dim + look.at[-1]
        first = max(look.place - self.width + 1, 0)
        columns = [
            look.run.column(source, place)
            for place in range(first, look.place + 1)
            if look.run.number("mask", text, place)
        ]
        offset = self.width - 1 - look.place  # of a place in the weight
        places = [place for place in range(first, look.place + 1) if look.run.number("mask", text, place)]
        before = (text,) if self.head_dim is None else (text, look.at[1])
        u = wide([look.row(source, *before, column, look.at[-1]) for column in columns])
        w = wide([look.run.weight_row(self.weights[0].name, channel, place + offset) for place in places])
        products = u * w
        bias = [look.weight(weight.name, (channel,)) for weight in self.weights[1:]]
        terms = look.sum(
            products,
            lambda i: (
                look.step(source, (*before, columns[i], look.at[-1]), u[i]),
                look.weight(self.weights[0].name, (channel, places[i] + offset), w[i]),
            ),
            *(Term(cell.value, (cell,)) for cell in bias),
        )
        total = float(products.sum()) + sum(cell.value for cell in bias)
        if not self.silu:
            return look.operands(recomputed=total, of=terms, latex=terms.latex or "0")
        latex = rf"\operatorname{{silu}}({number(total)})"
        return look.operands(recomputed=float(opened("silu", wide(total))), of=terms, parts={"sum": total}, latex=latex)
