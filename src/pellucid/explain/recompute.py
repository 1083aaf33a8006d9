"""Each step once more, in float64, from the recorded inputs and the weights, by its operation's own reference.

What runs here is numpy's arithmetic on the description, free of the model's own code. Only rotary angles are taken from
the model (``position.rotation``): at far positions their float32 rounding is part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.config import RopeConfig
from pellucid.explain.record import Record
from pellucid.model.decoder import Decoder
from pellucid.model.position import rotation
from pellucid.operations import Places
from pellucid.operations.numbers import Numbers, Weights


def wide(x: Tensor) -> Numbers:
    """The same numbers in float64, in numpy."""
    return x.detach().cpu().double().numpy()


@dataclass(frozen=True)
class Rows:
    """A weight whose rows are made float64 when they are asked for: a large one never is as a whole."""

    weight: Tensor
    kept: dict[Any, Numbers] | None = None  # parts that were made before, where somebody keeps them

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.weight.shape)

    def __getitem__(self, index: Any) -> Numbers:
        if self.kept is None or not isinstance(index, slice):
            return wide(self.weight[torch.as_tensor(index) if isinstance(index, np.ndarray) else index])
        key = (id(self.weight), index.start, index.stop)
        if key not in self.kept:
            self.kept[key] = wide(self.weight[index])
        return self.kept[key]

    def __array__(self, dtype: Any = None, copy: Any = None) -> Numbers:
        return wide(self.weight)


@dataclass(frozen=True)
class ModelWeights(Mapping[str, Rows]):
    """A decoder's weights as the references read them. ``kept``: where parts of them in float64 are remembered, for
    who asks for the same ones again; to be emptied now and then.
    """

    model: Decoder
    kept: dict[Any, Numbers] | None = None

    def __getitem__(self, name: str) -> Rows:
        return Rows(self.model.get_parameter(name), self.kept)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.model.named_parameters())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def values(trace: Record, path: str, columns: np.ndarray) -> Numbers:
    """A recorded step at some of the kept positions (``columns`` index ``trace.positions``)."""
    axes, value = trace.tap(path).axes, trace[path]
    axis = "position" if "position" in axes else "key"
    kept = columns if axis == "position" else np.asarray(trace.positions)[columns]
    return wide(value.index_select(axes.index(axis), torch.as_tensor(kept, device=value.device)))


def inputs_of(trace: Record, path: str, columns: np.ndarray) -> list[Numbers]:
    """What a step is computed from at those positions. Raises: NotRecordedError where an input is missing.

    Keys and values that a query looks at are whole, and all that a convolution or a recurrence reads.
    """
    tap = trace.tap(path)
    looks = tap.operation.whole or "position" in tap.axes
    return [
        wide(trace[source]) if looks and "position" not in trace.tap(source).axes else values(trace, source, columns)
        for source in tap.inputs
    ]


def recompute(trace: Record, path: str, columns: np.ndarray) -> Numbers:
    """The step's values at ``columns``, float64. Raises: NotRecordedError where an input is missing."""
    recorded, inputs = values(trace, path, columns), inputs_of(trace, path, columns)
    return trace.tap(path).operation.again(recorded, inputs, ModelWeights(trace.model), places_of(trace, columns))


def places_of(trace: Record, columns: np.ndarray) -> Places:
    """Where those of the kept positions are, with the angles that the model turns by there."""
    places = np.asarray(trace.positions)[columns]
    ids, positions, mask = (x.cpu().numpy() for x in (trace.token_ids, trace.position_ids, trace.mask))
    turned = {rope: _turns(trace, rope, tuple(places.tolist())) for rope in trace.config.ropes}
    return Places(ids, positions, places, mask, turned)


def _turns(trace: Record, rope: RopeConfig, places: tuple[int, ...]) -> tuple[Numbers, Numbers]:
    """cos and sin that the model used at these places, (B, T, pairs)."""
    if (rope, places) not in trace.turns:
        trace.turns[rope, places] = _turned(trace, rope, places)
    return trace.turns[rope, places]


def _turned(trace: Record, rope: RopeConfig, places: tuple[int, ...]) -> tuple[Numbers, Numbers]:
    positions = trace.position_ids[:, torch.as_tensor(places, device=trace.position_ids.device)]
    lengths = trace.position_ids.amax(1, keepdim=True).add(1).expand_as(positions)
    cos, sin = rotation(rope, positions, lengths, trace.model.dtype)
    return wide(cos[:, 0]), wide(sin[:, 0])


@dataclass(frozen=True)
class Cells:
    """A run's numbers, one cell or row at a time, as operations look at them."""

    trace: Record

    @property
    def weights(self) -> Weights:
        return ModelWeights(self.trace.model)

    def row(self, path: str, *index: int | slice) -> Numbers:
        return wide(self.trace[path][index])

    def weight_row(self, name: str, *index: int) -> Numbers:
        return wide(self.trace.weight(name)[index])

    def column(self, path: str, position: int) -> int:
        return self.trace.column(path, position)

    def number(self, name: str, text: int, position: int) -> int:
        return int(getattr(self.trace, name)[text, position])

    def turns(self, rope: RopeConfig, text: int, position: int) -> tuple[Numbers, Numbers]:
        cos, sin = _turns(self.trace, rope, (position,))
        return cos[text, 0], sin[text, 0]
