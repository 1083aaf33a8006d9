"""What the page's questions are answered with: JSON without infinities, and tiles of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from pellucid.base.errors import RequestError

Params = Mapping[str, str]


class NoSuchQuestionError(RequestError):
    """A path that is no question."""


class Tile(NamedTuple):
    """A rectangle of a tensor. With a step above 1, each value stands for a block: the one of largest size in it."""

    data: np.ndarray  # (rows, cols) float32
    row_step: int
    col_step: int


class Answers(Protocol):
    """What a page server asks: questions (JSON), tiles, and orders, which run the model."""

    def answer(self, path: str, params: Params) -> Any: ...

    def tile(self, name: str, params: Params) -> Tile: ...

    def order(self, path: str, body: Mapping[str, Any]) -> Any: ...


def plain(value: Any) -> Any:
    """JSON has no infinities and no NaN: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
