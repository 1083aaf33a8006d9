"""Stop strings: an answer ends before the first of them, and no part of one is ever shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress

from pellucid.text.detokenizer import Run


class StopStrings:
    """Lets text through up to the first stop string, holding back what may become one.

    A stop string is looked for in the text as the model wrote it, special tokens and all, and in the text as it is
    shown, without them: ``"<|user|>"`` ends an answer, ``"Bye<|user|>"`` does, and ``"Bye"`` does wherever a reader
    would see it. The first is the one complete first, and of those complete at once the longest; so the outcome
    depends on the text alone, not on the pieces it comes in.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.match: str | None = None
        self._held, self._shown = "", ""  # the text that waits, and for each of its characters "1" if it is shown

    def push(self, runs: Iterable[Run]) -> str:
        """The text to show that is now certain to come before any stop string. After ``match`` is set, nothing more
        comes.
        """
        if self.match is not None:
            return ""
        runs = list(runs)
        if not self.stops:
            return "".join(run.text for run in runs if run.shown)
        self._held += "".join(run.text for run in runs)
        self._shown += "".join(("1" if run.shown else "0") * len(run.text) for run in runs)
        places = [place for place, shown in enumerate(self._shown) if shown == "1"]
        texts: list[tuple[str, Sequence[int]]] = [(self._held, range(len(self._held)))]
        if len(places) < len(self._held):
            texts.append(("".join(self._held[place] for place in places), places))
        ends = [
            (where[at + len(stop) - 1], where[at], stop)
            for text, where in texts
            for stop in self.stops
            if (at := text.find(stop)) >= 0
        ]
        if ends:
            _, first, self.match = min(ends)
            certain = self._cut(first)
            self._held = self._shown = ""
            return certain
        begins = [
            where[len(text) - overlap]
            for text, where in texts
            if (overlap := max(_overlap(text, stop) for stop in self.stops))
        ]
        return self._cut(min(begins, default=len(self._held)))

    def flush(self) -> str:
        """What was held back and became no stop string."""
        return self._cut(len(self._held))

    def _cut(self, stop: int) -> str:
        """Let the first characters go. Returns those of them that are shown."""
        text = "".join(compress(self._held[:stop], (shown == "1" for shown in self._shown[:stop])))
        self._held, self._shown = self._held[stop:], self._shown[stop:]
        return text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that begins ``stop`` without being all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if stop.startswith(text[len(text) - size :])), 0)
