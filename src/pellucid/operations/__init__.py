"""What a model computes: its steps (``taps_of``), the operation that makes each, and the whole of them in float64."""

from pellucid.operations.operation import Operation, Places, Weight
from pellucid.operations.reference import reference
from pellucid.operations.taps import Tap, taps_of
from pellucid.operations.words import WORDS, Words

__all__ = ["WORDS", "Operation", "Places", "Tap", "Weight", "Words", "reference", "taps_of"]
