"""How the writing of a large file is shown: a line that changes on a terminal, one now and then elsewhere."""

from __future__ import annotations

import sys
import time

from pellucid.cli.terminal.console import notice
from pellucid.cli.terminal.numbers import count, duration, size

SECONDS_BETWEEN_LINES = 10.0


class WritingProgress:
    """Called with (stage, what is worked on, done, total): ``writing 1.2 of 4.9 GB, 48 MB/s, 1 min 17 s left``."""

    def __init__(self, unit: str = "bytes", *, quiet: bool = False) -> None:
        self.unit, self.quiet = unit, quiet
        self._stage, self._began, self._spoke = "", time.monotonic(), 0.0
        self._moves = sys.stderr.isatty()

    def __call__(self, stage: str, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began, self._spoke = stage, now, now
        if self.quiet or now - self._spoke < (0.2 if self._moves else SECONDS_BETWEEN_LINES):
            return
        self._spoke = now
        line = f"{self.figures(done, total, now - self._began)}  {name}"
        if self._moves:
            print(f"\r\x1b[K{line[:120]}", end="", file=sys.stderr, flush=True)
        else:
            notice(line)

    def figures(self, done: int, total: int, seconds: float) -> str:
        """``writing 1.2 GB of 4.9 GB, 48 MB/s, 1 min 17 s left``."""
        rate = done / seconds if seconds else 0.0
        left = f", {duration((total - done) / rate)} left" if rate else ""
        return f"{self._stage} {self._of(done)} of {self._of(total)}, {self._of(rate)}/s{left}"

    def _of(self, amount: float) -> str:
        return size(amount) if self.unit == "bytes" else f"{count(round(amount))} {self.unit}"

    def close(self) -> None:
        if self._moves and self._spoke and not self.quiet:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
