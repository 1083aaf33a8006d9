"""The fast path's own numbers: the program compiled with its taps on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.config import ModelConfig
from pellucid.native.executor import NativeExecutor
from pellucid.native.taps import of_step

NOT_HELD = ("embed", "pos_embed", "scores", "pattern")  # taps that the program never has in memory as a whole


class Tracer:
    """A model's program with its taps on; its numbers are those that the program without them computes, bit for bit.

    ``settings`` are NativeExecutor's. Raises: as NativeExecutor.
    """

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, Array], *, flags: tuple[str, ...] = (), **settings: Any
    ) -> None:
        self.config = config
        self.executor = NativeExecutor(config, weights, flags=(*flags, "-DTRACE"), **settings)

    def run(self, token_ids: Sequence[int]) -> dict[str, np.ndarray]:
        """All taps but ``NOT_HELD``; see ``taps.of_step``."""
        return of_step(self.executor, self.config, token_ids)

    def close(self) -> None:
        self.executor.close()


def trace(
    config: ModelConfig, weights: Mapping[str, Array], token_ids: Sequence[int], **settings: Any
) -> dict[str, np.ndarray]:
    """One run's taps; see ``Tracer``, which traces more than one."""
    tracer = Tracer(config, weights, **settings)
    try:
        return tracer.run(token_ids)
    finally:
        tracer.close()
