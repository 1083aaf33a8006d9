"""``Tap``: a value of the forward pass that has a name, the axes it has, and the operation that makes it."""

from __future__ import annotations

from dataclasses import dataclass

from pellucid.operations.cell import Index, Look, Operands, Recorded
from pellucid.operations.operation import Operation, Weight
from pellucid.operations.words import Words
from pellucid.operations.words_mixers import words_of

STREAM = ("batch", "position", "d_model")
BY_HEAD = ("batch", "head", "position", "head_dim")
BY_KV_HEAD = ("batch", "kv_head", "key", "head_dim")
BY_PAIR = ("batch", "head", "position", "key")
BY_NEURON = ("batch", "position", "neuron")
BY_EXPERT = ("batch", "position", "expert")
CHANNELS = ("batch", "position", "channel")
CHANNELS_WHOLE = ("batch", "key", "channel")  # of all places: later ones are made of them
BY_TOKEN = ("batch", "position", "token")


class Whole(str):
    """A tap's path as it stands: of the model, or of another layer."""


@dataclass(frozen=True, kw_only=True)
class Tap:
    """One tap of one model, and what computes it."""

    path: str  # layers.3.pattern
    name: str  # pattern
    layer: int | None
    operation: Operation
    axes: tuple[str, ...]
    widths: tuple[tuple[str, int], ...]  # sizes of the axes that the config fixes
    inputs: tuple[str, ...]  # paths
    latex: str
    attends: bool = True  # False in a layer whose mixer is none of attention's kinds

    @property
    def kind(self) -> str:
        """The operation's name: the same few make up every model."""
        return self.operation.kind

    @property
    def weights(self) -> tuple[Weight, ...]:
        return self.operation.weights

    @property
    def words(self) -> Words:
        return words_of(self.name, self.attends)

    @property
    def inside_the_kernel(self) -> bool:
        """Whether a fused kernel computes it on the way and never has it as a whole: scores and pattern."""
        return "position" in self.axes and "key" in self.axes

    def cell(self, run: Recorded, at: Index, value: float, place: int, max_terms: int = 12) -> Operands:
        """Why one cell of a run has its value; ``place`` is its position in the text."""
        look = Look(
            run=run,
            path=self.path,
            kind=self.kind,
            inputs=self.inputs,
            at=at,
            value=value,
            place=place,
            max_terms=max_terms,
        )
        return self.operation.cell(look)

    def shape(self, batch: int, positions: int, keys: int) -> tuple[int, ...]:
        """Sizes of the axes for a batch of ``keys`` tokens of which ``positions`` are looked at."""
        sizes = {"batch": batch, "position": positions, "key": keys, **dict(self.widths)}
        return tuple(sizes[axis] for axis in self.axes)
