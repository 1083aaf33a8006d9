"""Notices: one line on stderr for what is passed over, adjusted or surprising, and no reason to stop.

What cannot be right is an error (``errors``); what is right but not what a reader would expect is named here, once.
"""

from __future__ import annotations

import contextlib
import sys

_told: set[str] = set()  # a notice is about a file or a setting; a second time it would only be noise


def notice(text: str) -> None:
    """Print ``pellucid: text`` on stderr, the first time that this process says it; a closed stderr is no error.

    What is not printable is written as its escape: a name from a file must not write to the reader's terminal.
    """
    if text in _told:
        return
    _told.add(text)
    line = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in " ".join(text.split()))
    with contextlib.suppress(OSError, ValueError, AttributeError):  # ValueError: closed; AttributeError: no stderr
        print(f"pellucid: {line}", file=sys.stderr, flush=True)
