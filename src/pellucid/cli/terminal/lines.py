"""Messages that a person types: with editing and history where the system has them, over several lines where they want.

A line that ends in a backslash goes on in the next, as does what begins with three quotes, up to three more. What is
pasted stays one message (bracketed paste). The history is kept from one conversation to the next.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

QUOTES = '"""'
MOST = 1000  # messages of the history that are kept


def history_file() -> Path:
    """Where the history lies: among the user's states, as the XDG specification has it."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "pellucid" / "history"


class Lines:
    """Reads messages from a keyboard or a pipe."""

    def __enter__(self) -> Lines:
        self._readline: Any = None
        if sys.stdin.isatty():
            with contextlib.suppress(ImportError):  # Windows has none; input() works without
                import readline

                self._readline = readline
                readline.parse_and_bind("set enable-bracketed-paste on")
                readline.set_history_length(MOST)
                with contextlib.suppress(OSError):
                    readline.read_history_file(history_file())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._readline is None:
            return
        with contextlib.suppress(OSError):  # a home that cannot be written to keeps no history
            history_file().parent.mkdir(parents=True, exist_ok=True)
            self._readline.write_history_file(history_file())

    def read(self) -> str:
        """The next message. Raises: EOFError at the end."""
        first = following = ""
        if sys.stdin.isatty():
            # \001 and \002 tell readline that what is between them takes no room.
            plain = not sys.stdout.isatty() or self._readline is None
            first, following = "> " if plain else "\001\x1b[1;36m\002> \001\x1b[0m\002", ". "
        line = input(first)
        if line.startswith(QUOTES):
            line = line.removeprefix(QUOTES)
            while QUOTES not in line:
                line += "\n" + input(following)
            before, _, after = line.partition(QUOTES)
            return (before + after).strip("\n")
        while line.endswith("\\"):
            line = line[:-1] + "\n" + input(following)
        return line
