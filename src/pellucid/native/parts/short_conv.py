"""The gated short convolution as a function of the program."""

from __future__ import annotations

from pellucid.config import ModelConfig, ShortConvConfig
from pellucid.native.kinds import Kinds, Part
from pellucid.native.layout import Layout
from pellucid.native.parts.text import beginning, biases, numbers, output
from pellucid.native.writing import filled


def short_conv(config: ModelConfig, layout: Layout, kinds: Kinds, part: Part) -> str:
    mixer = part.layer.mixer
    assert isinstance(mixer, ShortConvConfig)
    values = {
        **beginning(config, part),
        "width": mixer.width,
        "channels": mixer.channels,
        **biases(layout, part, "short_conv", ("b", "u", "c")),
        "conv_bias": numbers(layout, part, "short_conv.conv.bias"),
    }
    return filled("part_short_conv.c.in", values, {}) + "\n" + output(layout, part, "NUM_CHANNELS", "short_conv")
