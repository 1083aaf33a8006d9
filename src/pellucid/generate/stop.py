"""Stop strings: an answer ends before the first of them, and no part of one is ever shown."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to the first stop string, holding back what may become one.

    The first is the one complete first, and of those complete at once the longest; so the outcome depends on the text
    alone, not on the pieces it comes in.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.found: str | None = None
        self._held = ""

    def push(self, text: str) -> str:
        """The text that is now certain to come before any stop string. After ``found`` is set, nothing more comes."""
        if self.found is not None:
            return ""
        if not self.stops:
            return text
        text = self._held + text
        ends = [(at + len(stop), at, stop) for stop in self.stops if (at := text.find(stop)) >= 0]
        if ends:
            _, at, self.found = min(ends)
            self._held = ""
            return text[:at]
        held = max(_overlap(text, stop) for stop in self.stops)
        certain = len(text) - held
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """What was held back and became no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that begins ``stop`` without being all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if stop.startswith(text[len(text) - size :])), 0)
