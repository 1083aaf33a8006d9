"""The program's standard streams: there in any case, and a failure of one is told apart from other files' failures."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any

OUTPUT = "standard output"


class _Output(io.FileIO):
    """Descriptor 1, whose failures have a name."""

    def write(self, data: Any, /) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = OUTPUT
            raise


def open_standard_streams() -> None:
    """Where a stream was closed by the shell (``>&-``, ``<&-``), what is read is empty and what is written is gone.

    Without this Python's ``sys.stdout`` is None, and the next file that is opened becomes descriptor 1. Closed output
    is named on stderr: the results go nowhere. A COLUMNS or LINES that is no width at all is as if it were not set.
    """
    for name in ("COLUMNS", "LINES"):
        if not (os.environ.get(name, "1").isdecimal() and int(os.environ.get(name, "1")) > 0):
            del os.environ[name]
    closed = []
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            closed.append(name)
            os.open(os.devnull, os.O_RDWR)  # the lowest descriptor that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(1, "wb", closefd=False)),
        encoding=sys.stdout.encoding,
        errors=sys.stdout.errors,
        line_buffering=sys.stdout.isatty(),
    )
    if "stdout" in closed:
        say("standard output is closed: what is written there goes nowhere")


def say(text: str, end: str = "\n") -> None:
    """To stderr, at once; a full disk behind it or a reader that has left is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, end=end, flush=True)


def output_error() -> OSError | None:
    """Why standard output takes no more, if it does not; what was buffered is dropped then, so that it fails once."""
    try:
        sys.stdout.flush()
    except OSError as error:
        drop_output()
        return error
    return None


def drop_output() -> None:
    """Standard output goes nowhere from now on."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
