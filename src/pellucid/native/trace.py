"""The fast path's own numbers: the program compiled with its taps on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.config import ModelConfig
from pellucid.executor import StepInput
from pellucid.native.executor import NativeExecutor

BY_HEAD = ("q", "k", "v", "q_norm", "k_norm", "q_rot", "k_rot", "z")
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
        """Tap paths (``layers.0.q``, as executor 1 names them) → values, in the order of computation; all taps but
        ``NOT_HELD``.

        Shapes: (H, T, E) by head, (T, D) in the stream, (T, V) of the logits.
        """
        slot = self.executor.allocate(len(token_ids))
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "taps"
                assert self.executor.trace_to(os.fsencode(path)) == 0
                try:
                    self.executor.step([StepInput(slot, token_ids, range(len(token_ids)))])
                finally:
                    self.executor.trace_to(None)
                data = path.read_bytes()
        finally:
            self.executor.free(slot)
        found: dict[str, list[np.ndarray]] = {}
        for tap, values in self._taps(data):  # a long text comes in several pieces
            found.setdefault(tap, []).append(values)
        return {tap: parts[0] if len(parts) == 1 else np.concatenate(parts, -2) for tap, parts in found.items()}

    def _taps(self, data: bytes) -> Iterator[tuple[str, np.ndarray]]:
        at = 0
        while at < len(data):
            end = data.index(b"\n", at)
            name, layer, rows, width = data[at:end].decode().split()
            count, at = int(rows) * int(width), end + 1
            values = np.frombuffer(data, np.float32, count, at).reshape(int(rows), int(width))
            at += 4 * count
            if name in BY_HEAD:
                values = values.reshape(int(rows), -1, self.config.layers[int(layer)].mixer.head_dim).transpose(1, 0, 2)
            yield name if int(layer) < 0 else f"layers.{layer}.{name}", values

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
