"""What an operation is: one of the few kinds of arithmetic that every model is made of, each said in one file.

An operation's file says all that anybody must know about it: its equation, which fields of the description it reads,
its float64 reference in numpy, the operands of one cell, what must hold of its result, how a contribution passes
through it, and the line of code that computes it. Whoever shows or checks a model asks the operation, not its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from pellucid.operations.cell import Look, Operands
from pellucid.operations.numbers import Numbers, Weights
from pellucid.operations.places import Places


class Weight(NamedTuple):
    """A weight that takes part in a step."""

    name: str
    shape: tuple[int, ...]


class Sentence(NamedTuple):
    """The same in English and in 中文."""

    en: str
    zh: str


class Identity(NamedTuple):
    """Something that must hold of a step's values beside their equation."""

    name: str
    says: Sentence
    formula: str  # LaTeX


class Passed(NamedTuple):
    """A contribution on its way back: the direction for each input, and what constant terms (name → value) add."""

    directions: tuple[Numbers | None, ...]  # None: it does not pass through that input
    constants: dict[str, float]


class Line(NamedTuple):
    """A line of the torch executor's code: the first of a function that contains ``part``."""

    module: str  # model.attention
    function: str  # Attention.forward
    part: str


class Operation:
    """A step's arithmetic with its parameters. Subclasses are frozen dataclasses; ``weights`` are those it uses."""

    kind: ClassVar[str]
    holds: ClassVar[Sentence]  # what is true of its result: that it is what the equation makes of the inputs
    identities: ClassVar[tuple[Identity, ...]] = ()  # what must hold beside
    reads: ClassVar[tuple[str, ...]] = ()  # fields of the description: "NormConfig.eps"
    rows_checked: ClassVar[int] = 32  # of a text: where a row costs a pass over the weights, fewer
    part: ClassVar[str | None] = None  # what kind of part of the model a contribution that ends here is
    whole: ClassVar[bool] = False  # whether a place of its result is made of other places of its inputs
    of_one: ClassVar[bool] = False  # whether a row of its result is shares of 1
    stage: ClassVar[tuple[str, str] | None] = None  # where run.c has it, if no line there names the tap: file, part

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def equation(self, result: str, *inputs: str) -> str:
        """LaTeX, with the symbols of the step and of what it is computed from."""
        raise NotImplementedError

    def line(self, name: str) -> Line:
        """The line of torch code that computes it, for the tap of that name."""
        raise NotImplementedError

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        """The step's values, float64, at ``places``; keys and values among ``inputs`` are whole."""
        raise NotImplementedError

    def again(self, values: Numbers, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        """The reference of recorded values; where the equation leaves a choice (among equals), theirs."""
        return self.reference(inputs, weights, places)

    def cell(self, look: Look) -> Operands:
        """One cell's operands."""
        raise NotImplementedError

    def errors(self, values: Numbers, inputs: Sequence[Numbers], weights: Weights) -> Iterator[tuple[Identity, float]]:
        """How far recorded values are from each of ``identities`` that applies."""
        return iter(())

    def back(self, direction: Numbers, inputs: Sequence[Numbers], weights: Weights) -> Passed | None:
        """How what this adds along ``direction`` (of one position) is shared among its inputs; None: it ends here.

        Attention and the deviations of norms are held as they are: everything is linear then.
        """
        return None

    def forth(self, part: Numbers, source: int, inputs: Sequence[Numbers], weights: Weights) -> Numbers:
        """What a part of the input number ``source`` becomes in the result, held as for ``back``: its transpose.

        Here for operations that are their own, which scale each number by itself.
        """
        passed = self.back(part, inputs, weights)
        assert passed is not None, f"{self.kind} passes nothing on"
        made = passed.directions[source]
        assert made is not None
        return made

    def shares(self, value: Numbers, direction: Numbers) -> Numbers:
        """What ends here adds along ``direction``: a number, or one for each head or neuron."""
        return np.sum(value * direction)
