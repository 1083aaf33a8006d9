"""A speculator that knows what comes, and is wrong now and then: every way in which guesses can turn out."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pellucid.generate import Answer, Request


class Clairvoyant:
    """``know`` tells a request's answers; each guess is right with probability ``right``."""

    most = 6

    def __init__(self, know: Callable[[Request], Sequence[Answer]], right: float = 0.8) -> None:
        self.know, self.right, self.chance = know, right, random.Random(0)
        self._known: dict[tuple[Any, int], tuple[int, ...]] = {}

    def check(self, config: object) -> None: ...

    def guess(self, wanted: Mapping[Any, int]) -> dict[Any, list[int]]:
        return {sequence: self._guess(sequence, most) for sequence, most in wanted.items()}

    def _guess(self, sequence: Any, most: int) -> list[int]:
        if sequence not in self._known:
            self._known[sequence] = self.know(sequence.request)[sequence.index].token_ids
        comes = self._known[sequence][len(sequence.token_ids) :][: self.chance.randint(0, most)]
        return [token if self.chance.random() < self.right else (token + 1) % 29 for token in comes]

    def release(self, sequence: object) -> None: ...

    def forget(self) -> None: ...
