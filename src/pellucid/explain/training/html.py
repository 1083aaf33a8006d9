"""The training section in an offline file: every answer about the run, and its snapshots as far as they fit, the last
ones first.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from pellucid.explain.training.view import Training

ANSWERS = ("", "state", "curves", "weights", "batch", "samples", "embedding", "stream")


class Holder(Protocol):
    """What fits into the file; False for what does not."""

    room: int

    def answer(self, address: str, value: Any) -> bool: ...

    def tensor(self, name: str, array: Any, shape: Any, steps: tuple[int, int] = (1, 1)) -> bool: ...


def add_training(data: Holder, training: Training | None, *, share: float = 0.5) -> None:
    """Put a run's answers into the file, in at most ``share`` of the room that is left; without a run, that there is
    none.
    """
    if training is None:
        data.answer("training", None)
        return
    least = int(data.room * (1 - share))
    for path in ANSWERS:
        data.answer(f"training/{path}".rstrip("/"), training.answer(path, {}))
    data.answer("training/weights?each=1", training.answer("weights", {"each": "1"}))
    steps = training.answer("state", {})["snapshots"]
    held: list[int] = []
    for step in _from_both_ends(steps):
        if data.room <= least or not data.answer(f"training/snapshot/{step}", training.answer(f"snapshot/{step}", {})):
            break
        held.append(step)
        _tiles(data, training, step)
    if len(held) < len(steps):  # the scrubber knows only what is here
        state, embedding = training.answer("state", {}), training.answer("embedding", {})
        kept = [i for i, step in enumerate(embedding["steps"]) if step in held]
        data.answer("training/state", {**state, "snapshots": sorted(held)})
        data.answer(
            "training/embedding",
            {**embedding, **{name: [embedding[name][i] for i in kept] for name in ("steps", "points")}},
        )


def _tiles(data: Holder, training: Training, step: int) -> None:
    snapshot = training.answer(f"snapshot/{step}", {})
    names = [f"attention.{step}.{layer['layer']}" for layer in snapshot["attention"]] + (
        [f"positions.{step}"] if snapshot["positions"] else []
    )
    for name in names:
        array: np.ndarray = training.tile(name, {}).data
        data.tensor(f"training.{name}", array, array.shape)


def _from_both_ends(steps: list[int]) -> list[int]:
    """The last, the first, then ever finer between: whatever fits shows the whole way."""
    if len(steps) < 2:
        return steps
    order, width = [len(steps) - 1, 0], len(steps)
    while width > 1:
        width = (width + 1) // 2
        order += range(0, len(steps), width)
    order += range(len(steps))
    return [steps[i] for i in dict.fromkeys(order)]
