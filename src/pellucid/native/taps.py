"""What a program that was compiled with its taps on writes in a step, as arrays."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pellucid.config import AttentionConfig, DeltaNetConfig, LatentAttentionConfig, Mamba2Config, Mixer, ModelConfig
from pellucid.executor import StepInput

BY_HEAD = ("q", "k", "v", "q_norm", "k_norm", "q_rot", "k_rot", "q_scaled", "z", "z_gate", "z_gated")


def _head(mixer: Mixer | None, name: str) -> int | None:
    """Numbers of one head in a tap that is by head."""
    if isinstance(mixer, LatentAttentionConfig):
        own = {"k": mixer.qk_nope_head_dim, "k_shared": mixer.qk_rope_head_dim, "k_rot": mixer.qk_rope_head_dim}
        whole = dict.fromkeys(("q", "q_rot", "k_whole"), mixer.head_dim)
        return (own | whole | dict.fromkeys(("v", "z"), mixer.v_head_dim)).get(name)
    if isinstance(mixer, DeltaNetConfig):
        keys = ("q", "k", "q_conv", "k_conv", "q_norm", "k_norm")
        keys = (*keys, *(("decay_in", "decay") if mixer.decay_by == "channel" else ()))
        values = ("v", "v_conv", "write", "z", "z_norm", "z_gate", "z_gated")
        widths = dict.fromkeys(keys, mixer.key_head_dim) | dict.fromkeys(values, mixer.value_head_dim)
        return widths.get(name)
    if isinstance(mixer, Mamba2Config):
        return mixer.head_dim if name in ("ssm_z", "ssm_y", "ssm_gated", "ssm_norm") else None
    if isinstance(mixer, AttentionConfig) and name in ("v", "z", "z_gate", "z_gated"):
        return mixer.v_width
    return mixer.head_dim if isinstance(mixer, AttentionConfig) and name in BY_HEAD else None


class Traced(Protocol):
    """An executor of such a program."""

    def allocate(self, capacity: int) -> int: ...
    def free(self, slot: int) -> None: ...
    def step(self, inputs: Sequence[StepInput]) -> Any: ...
    def trace_to(self, path: bytes | None) -> int: ...


def of_step(executor: Traced, config: ModelConfig, token_ids: Sequence[int]) -> dict[str, np.ndarray]:
    """Tap paths (``layers.0.q``, as executor 1 names them) → values, in the order of computation.

    Shapes: (H, T, E) by head, (T, D) in the stream, (T, V) of the logits.
    """
    slot = executor.allocate(len(token_ids))
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "taps"
            assert executor.trace_to(os.fsencode(path)) == 0
            try:
                executor.step([StepInput(slot, token_ids, range(len(token_ids)))])
            finally:
                executor.trace_to(None)
            data = path.read_bytes()
    finally:
        executor.free(slot)
    pieces: dict[str, list[np.ndarray]] = {}
    for tap, values in _read(data, config):  # a long text comes in several
        pieces.setdefault(tap, []).append(values)
    return {tap: parts[0] if len(parts) == 1 else np.concatenate(parts, -2) for tap, parts in pieces.items()}


def _read(data: bytes, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    at = 0
    while at < len(data):
        end = data.index(b"\n", at)
        name, layer, rows, width = data[at:end].decode().split()
        count, at = int(rows) * int(width), end + 1
        values = np.frombuffer(data, np.float32, count, at).reshape(int(rows), int(width))
        at += 4 * count
        if int(layer) >= 0 and (head := _head(config.layers[int(layer)].mixer, name)):
            values = values.reshape(int(rows), -1, head).transpose(1, 0, 2)
        yield name if int(layer) < 0 else f"layers.{layer}.{name}", values
