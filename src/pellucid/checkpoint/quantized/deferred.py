"""``Deferred``: an Array whose numbers are computed from several tensors of a file when they are first looked at."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import WeightsError
from pellucid.checkpoint.files.release import release
from pellucid.quant.affine import Affine


class Deferred(Array):
    """``dtype`` may need a look at the scales, ``data`` needs all; both are kept once they are known.

    ``how`` says how the files hold it, for whoever is shown that. ``by_outputs``: its rows are outputs, whichever way
    its family stores a matrix that is not quantized.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        sources: tuple[Array, ...],
        how: str,
        dtype: Callable[[], str],
        make: Callable[[], Array],
        by_outputs: bool = True,
    ) -> None:
        facts: dict[str, Any] = {"shape": shape, "_sources": sources, "_how": how, "_by_outputs": by_outputs}
        self.__dict__.update(facts, _dtype=dtype, _make=make)

    @cached_property
    def dtype(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.__dict__["_dtype"]()

    @cached_property
    def data(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleVariableOverride]
        array: Array = self.__dict__["_make"]()
        assert (array.dtype, array.shape) == (self.dtype, self.shape)
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

    @cache
    def made() -> Affine:
        try:
            return affine()
        except WeightsError as error:
            error.args = (f"{name}: {error}",)
            raise

    return Deferred(shape, sources, how, lambda: made().blocks or dtype, lambda: made().array(dtype))
