"""The taps of what a layer makes of the narrow vector that each token has for it, and of the number that ends it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pellucid.config import ModelConfig, SideConfig
from pellucid.operations.activation import Activation
from pellucid.operations.cut import Cut
from pellucid.operations.norm import Norm
from pellucid.operations.scale import Scale
from pellucid.operations.sum import Sum
from pellucid.operations.taps.part import Part
from pellucid.operations.taps.tap import Tap, Whole

SIDE = ("batch", "position", "side")


class SideTaps(Part):
    """From the vector to what is added."""

    def __init__(self, config: ModelConfig, i: int, side: SideConfig) -> None:
        super().__init__(config, i, {"side": side.width})
        self.side = side

    def taps(self) -> Iterator[Tap]:
        side, width = self.side, self.side.width
        cut = Cut(start=self.i * width, width=width)
        yield self.tap("side_row", cut, "r", ("R",), Whole("side_embed"), axes=SIDE)
        yield self.tap("side_mapped", cut, "m", ("M",), Whole("side_context"), axes=SIDE)
        norm = Norm(name="side_norm", width=width, config=side.norm)
        yield self.tap("side_norm", norm, r"\hat m", ("m",), "side_mapped", axes=SIDE)
        yield self.tap("side_sum", Sum(), "c", (r"\hat m", "r"), "side_norm", "side_row", axes=SIDE)
        yield self.tap("side_in", Scale(2**-0.5), "s", ("c",), "side_sum", axes=SIDE)
        gate = self.linear("side.gate_proj", "side", (width, self.d_model), False)
        yield self.tap("side_pre", gate, "g", ("x'''",), "resid_mlp", axes=SIDE)
        act = Activation(function=side.activation, gated=True)
        yield self.tap("side_act", act, "f", ("g", "s"), "side_pre", "side_in", axes=SIDE)
        down = replace(self.linear("side.down_proj", "down", (self.d_model, width), False))
        yield self.tap("side_proj", down, r"\hat a", ("f",), "side_act")
        yield self.tap("side_out", self.norm("side.norm", side.norm), "a", (r"\hat a",), "side_proj")
        yield self.tap("resid_unscaled", Sum(), r"\hat x", ("x'''", "a"), "resid_mlp", "side_out")
