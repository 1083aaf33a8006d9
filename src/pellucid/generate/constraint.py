"""What an answer may be: a mask of the next token, told before every token; and how it is kept to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pellucid.base.errors import RequestError


class Matcher(Protocol):
    """One answer's way through what it may be. The engine's thread calls it; what takes time may run in another, from
    ``accept`` on, while the model computes.
    """

    def mask(self) -> np.ndarray | None:
        """Which tokens may come next: bool, (V,), end tokens among them where the answer may end here; None: all.

        What lies beyond a shorter mask may not.
        """
        ...

    def accept(self, token_id: int) -> None:
        """The answer continues with it."""
        ...

    def valid_prefix(self, token_ids: Sequence[int]) -> int:
        """How many of these, from the first, might follow one another here; nothing changes by asking."""
        ...

    @property
    def finished(self) -> bool:
        """Whether only an end token may follow."""
        ...


class Constraint(Protocol):
    """A grammar, a schema, a list of words: what all of a request's answers may be."""

    def start(self) -> Matcher:
        """For one answer, from its first token. Called in the thread that adds the request. Raises: PellucidError."""
        ...


def allowed(logits: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The logits (V,), −∞ where the mask forbids; a NaN stays one wherever it is, for it tells of a damaged model.

    Raises: RequestError where nothing is left.
    """
    if mask is None:
        return logits
    whole = mask[: len(logits)]
    if len(mask) < len(logits):
        whole = np.zeros(len(logits), bool)
        whole[: len(mask)] = mask
    if not whole.any():
        raise RequestError("no token is left to choose", remedy="the constraint allows none, and not the end either")
    if np.isnan(logits.max()):  # of all numbers, the largest, or a NaN
        whole = whole | np.isnan(logits)
    return np.where(whole, logits, np.float32(-np.inf))
