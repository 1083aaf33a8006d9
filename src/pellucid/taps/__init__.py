"""Every tap of the forward pass: its name, equation, axes and inputs (``describe``), and what it means (``words``)."""

from pellucid.taps.describe import Tap, Weight, taps_of
from pellucid.taps.words import WORDS, Words

__all__ = ["WORDS", "Tap", "Weight", "Words", "taps_of"]
