"""``Pace``: how far to guess ahead."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_REST = 16  # steps


@dataclass
class Pace:
    """Guesses cost time where they are wrong: a row each, on a CPU a fifth to a third of a step. So their number
    follows from what came of others.

    1, 3, 7, 15 …: with the token before them these fill the tiles of four rows in which matrix products are computed.
    """

    length: int = 3
    misses: int = 0  # times in a row that not one guess was right
    rest: int = 0  # steps to go without a guess
    guessed: int = 0  # in all
    accepted: int = 0

    def next(self) -> int:
        """Guesses to make now, at most."""
        if self.rest:
            self.rest -= 1
            return 0
        return self.length

    def adapt(self, guessed: int, accepted: int) -> None:
        """Of so many guesses, so many were right."""
        self.misses = 0 if accepted else self.misses + 1
        if self.misses > 1:
            self.rest = min(2**self.misses, LONGEST_REST)
        if accepted == guessed >= self.length:
            self.length = 2 * self.length + 1
        elif 2 * accepted < guessed:
            self.length = max(self.length // 2, 1)
