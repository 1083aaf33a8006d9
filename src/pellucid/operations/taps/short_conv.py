"""The taps of a gated short convolution: what goes in, how far each gate opens, and what comes out."""

from __future__ import annotations

from collections.abc import Iterator

from pellucid.config import ModelConfig, ShortConvConfig
from pellucid.operations.convolve import Convolve
from pellucid.operations.operation import Line
from pellucid.operations.product import Product
from pellucid.operations.taps.part import Part
from pellucid.operations.taps.tap import CHANNELS, CHANNELS_WHOLE, Tap

WAY_IN = Line("model.short_conv", "ShortConv.forward", "b * u")
WAY_OUT = Line("model.short_conv", "ShortConv.forward", "c * y")


class ShortConvTaps(Part):
    """The convolution's, from what it reads to what it adds."""

    def __init__(self, config: ModelConfig, i: int, mixer: ShortConvConfig) -> None:
        super().__init__(config, i, {"channel": mixer.channels})
        self.mixer = mixer

    def taps(self) -> Iterator[Tap]:
        mixer, wide = self.mixer, (self.mixer.channels, self.d_model)
        for name, axes in (("b", CHANNELS_WHOLE), ("u", CHANNELS_WHOLE), ("c", CHANNELS)):
            projection = self.linear(f"short_conv.{name}_proj", name, wide, mixer.bias)
            yield self.tap(f"conv_{name}", projection, name, ("n",), "attn_in", axes=axes)
        gated = Product(code=WAY_IN)
        yield self.tap("conv_in", gated, r"\hat u", ("b", "u"), "conv_b", "conv_u", axes=CHANNELS_WHOLE)
        conv = Convolve(name=f"{self.at}.short_conv.conv", channels=mixer.channels, width=mixer.width, bias=mixer.bias)
        yield self.tap("conv", conv, "v", (r"\hat u",), "conv_in", axes=CHANNELS)
        yield self.tap("conv_out", Product(code=WAY_OUT), "z", ("c", "v"), "conv_c", "conv", axes=CHANNELS)
        name, symbol = self.made("attn", "o")
        out = self.linear("short_conv.o_proj", "O", (self.d_model, mixer.channels), mixer.bias)
        yield self.tap(name, out, symbol, ("z",), "conv_out")
        yield from self.normed("attn", "o", "attention_post_norm")
