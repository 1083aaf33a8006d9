"""``Tempo``: how many tokens of prompts fit into a step without keeping running answers waiting."""

from __future__ import annotations

from dataclasses import dataclass

LEAST = 32  # tokens of prompts in a step, however long they take: a product of fewer rows wastes most of its time
BESIDE = 2.0  # a step takes three times what it would for the answers alone, where nobody says how long it may take
WEIGHT = 0.25  # of a new measurement


@dataclass
class Tempo:
    """Measures what a step takes, and a token of a prompt beside it.

    ``seconds``: that prompts may add to a step in which answers are written; None: ``BESIDE`` times what it takes
    without.
    """

    seconds: float | None = None
    answers: float | None = None  # seconds of a step without prompts
    token: float | None = None  # seconds of one more token of a prompt

    def tokens(self) -> int:
        """Tokens of prompts beside answers."""
        allowed = self.seconds if self.seconds is not None or self.answers is None else BESIDE * self.answers
        if allowed is None or not self.token:
            return 2 * LEAST
        return max(int(allowed / self.token), LEAST)

    def measure(self, seconds: float, answers: int, prompt_tokens: int) -> None:
        """A step took so long, with so many answers and tokens of prompts in it."""
        if not prompt_tokens:
            self.answers = _mean(self.answers, seconds)
        elif prompt_tokens >= LEAST:
            beside = min(self.answers or 0.0, seconds) if answers else 0.0
            self.token = _mean(self.token, (seconds - beside) / prompt_tokens)


def _mean(before: float | None, now: float) -> float:
    return now if before is None else before + WEIGHT * (now - before)
