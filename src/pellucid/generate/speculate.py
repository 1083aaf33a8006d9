"""Speculative decoding: guess the next tokens cheaply, let the model compute them all in one step, keep those that are
right.

A guess is right where the model's own choice, made by the request's own rules and random numbers, is the same token. So
an answer has the same tokens with guesses as without, greedy or drawn, as far as the executor computes several tokens
of a slot as it would one by one. Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative
Decoding"; this way of accepting keeps more than their guarantee (the same tokens, not just the same distribution).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from pellucid.base.errors import RequestError
from pellucid.config import ModelConfig
from pellucid.generate.sequence import Sequence

MAX_GUESSES = 31  # for one request in one step: what every cache can take back


class Speculator(Protocol):
    """Guesses how answers go on."""

    most: int  # tokens ahead

    def check(self, config: ModelConfig) -> None:
        """Raises: ConfigError where this model's answers cannot be guessed."""
        ...

    def guess(self, wanted: Mapping[Sequence, int]) -> Mapping[Sequence, list[int]]:
        """Up to so many of the next tokens of each sequence; none where nothing comes to mind."""
        ...

    def release(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        ...

    def forget(self) -> None:
        """Give back what is kept of sequences that have ended."""
        ...


class PromptLookup:
    """Guesses that the text goes on as it did when its last tokens stood there before: in summaries, corrections, code,
    quotations.

    Source: Saxena 2023, "Prompt Lookup Decoding".
    """

    def __init__(self, most: int = 15) -> None:
        self.most = check_most(most)

    def check(self, config: ModelConfig) -> None: ...

    def guess(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        return {sequence: continuation(sequence.all_ids, most) for sequence, most in wanted.items()}

    def release(self, sequence: Sequence) -> None: ...

    def forget(self) -> None: ...


def continuation(ids: np.ndarray, most: int, *, shortest: int = 2, longest: int = 8) -> list[int]:
    """What followed the last earlier place where the text ended as it ends now, in at least ``shortest`` tokens.

    The place that agrees in most tokens, up to ``longest``; the last of several. A text that repeats itself is
    continued beyond its end.
    """
    places, end, agreed = np.flatnonzero(ids[:-1] == ids[-1]), len(ids) - 1, 1
    while len(places) and agreed < longest:
        longer = places[places >= agreed]
        longer = longer[ids[longer - agreed] == ids[end - agreed]]
        if not len(longer):
            break
        places, agreed = longer, agreed + 1
    if not len(places) or agreed < shortest:
        return []
    start = int(places[-1]) + 1
    return ids[start + np.arange(most) % (len(ids) - start)].tolist()


def check_most(most: int) -> int:
    """Raises: RequestError."""
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MAX_GUESSES:
        raise RequestError(
            "the number of tokens to guess is out of range", expected=f"1 to {MAX_GUESSES}", received=repr(most)
        )
    return most
