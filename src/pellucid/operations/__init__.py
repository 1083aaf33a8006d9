"""What a model computes: its steps (``taps_of``), the operation that makes each, and the whole of them in float64."""

from pellucid.operations.operation import Operation, Weight
from pellucid.operations.places import Places
from pellucid.operations.reference import reference
from pellucid.operations.taps import OPERATIONS, Tap, taps_of
from pellucid.operations.words import WORDS, Words

__all__ = ["OPERATIONS", "WORDS", "Operation", "Places", "Tap", "Weight", "Words", "reference", "taps_of"]
