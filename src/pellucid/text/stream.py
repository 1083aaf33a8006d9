"""``TextStream``: what a backend's decoding is, one id at a time."""

from __future__ import annotations

from typing import Protocol


class TextStream(Protocol):
    """A decoder that takes one id at a time."""

    def push(self, token_id: int) -> str:
        """The text that is now certain."""
        ...

    def pause(self) -> str:
        """The text of a whole character that only waits for what comes next; now something without text comes.

        Nothing of a character that is not whole, and nothing where what follows decides how it is written.
        """
        ...

    def flush(self) -> str:
        """The text still held back, now that no more comes."""
        ...
