"""The fast path's own numbers: one step of the program compiled with its taps on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pellucid.base.array import Array
from pellucid.config import ModelConfig
from pellucid.executor import StepInput
from pellucid.native.executor import NativeExecutor
from pellucid.native.program import MAX_ROWS

BY_HEAD = ("q", "k", "v", "q_norm", "k_norm", "q_rot", "k_rot", "z")


def trace(
    config: ModelConfig, weights: Mapping[str, Array], token_ids: Sequence[int], *, threads: int | None = None, flags: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Tap paths (``layers.0.q``, as executor 1 names them) → values, in the order of computation.

    Shapes: (H, T, E) by head, (T, D) in the stream, (T, V) of the logits. There are no ``scores`` and no ``pattern``: they are never in
    memory as a whole. At most ``MAX_ROWS`` tokens.
    """
    assert len(token_ids) <= MAX_ROWS, "a trace is one step"
    executor = NativeExecutor(config, weights, threads=threads, flags=(*flags, "-DTRACE"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "taps"
        assert executor.trace_to(os.fsencode(path)) == 0
        executor.step([StepInput(executor.allocate(len(token_ids)), token_ids, range(len(token_ids)))])
        executor.trace_to(None)
        data = path.read_bytes()
    executor.close()
    return dict(_taps(config, data))


def _taps(config: ModelConfig, data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    at = 0
    while at < len(data):
        end = data.index(b"\n", at)
        name, layer, rows, width = data[at:end].decode().split()
        count, at = int(rows) * int(width), end + 1
        values = np.frombuffer(data, np.float32, count, at).reshape(int(rows), int(width))
        at += 4 * count
        if name in BY_HEAD:
            values = values.reshape(int(rows), -1, config.layers[int(layer)].attention.head_dim).transpose(1, 0, 2)
        yield name if int(layer) < 0 else f"layers.{layer}.{name}", values
