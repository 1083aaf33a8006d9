"""``Deferred``: an Array whose numbers are computed from several tensors of a file when they are first looked at."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import WeightsError
from pellucid.checkpoint.files.release import release
from pellucid.quant.affine import Affine

Plan = tuple[str, Callable[[], Array]]  # the dtype that it will be of, and the call that makes it


class Deferred(Array):
    """``plan`` is called when the dtype or the numbers are asked for: it may need a look at the scales.

    ``how`` says how the files hold it, for whoever is shown that. ``by_outputs``: its rows are outputs, whichever way
    its family stores a matrix that is not quantized. What was computed lasts as long as this Array does: whoever keeps
    one gives ``again()`` away.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        sources: tuple[Array, ...],
        how: str,
        plan: Callable[[], Plan],
        by_outputs: bool = True,
    ) -> None:
        facts: dict[str, Any] = {"shape": shape, "_sources": sources, "_how": how, "_by_outputs": by_outputs}
        self.__dict__.update(facts, _make_plan=plan)

    def again(self) -> Deferred:
        """The same, nothing computed yet."""
        facts = self.__dict__
        return Deferred(self.shape, facts["_sources"], facts["_how"], facts["_make_plan"], facts["_by_outputs"])

    @cached_property
    def _plan(self) -> Plan:
        return self.__dict__["_make_plan"]()

    @property
    def dtype(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._plan[0]

    @cached_property
    def data(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleVariableOverride]
        dtype, make = self._plan
        array = make()
        assert (array.dtype, array.shape) == (dtype, self.shape)
        for source in self.sources:
            release(source)
        return array.data

    @property
    def sources(self) -> tuple[Array, ...]:
        return self.__dict__["_sources"]

    @property
    def stored_as(self) -> str:
        return self.__dict__["_how"]

    @property
    def by_outputs(self) -> bool:
        return self.__dict__["_by_outputs"]


def deferred_affine(
    name: str, shape: tuple[int, int], sources: tuple[Array, ...], how: str, affine: Callable[[], Affine], dtype: str
) -> Deferred:
    """A matrix of small integers; what is wrong with them is said with the weight's ``name``."""

    def plan() -> Plan:
        try:
            made = affine()
            return made.blocks or dtype, lambda: made.array(dtype)
        except WeightsError as error:
            error.args = (f"{name}: {error}",)
            raise

    return Deferred(shape, sources, how, plan)
