"""Where output goes: results to stdout, everything about them to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from pellucid.generate.result import Answer


def results() -> Console:
    """A console on stdout. Colour only on a terminal; NO_COLOR is honoured."""
    from rich.console import Console

    return Console(highlight=False)


def visible(text: str) -> str:
    """The text with what a terminal would obey (escapes, control characters) spelled out instead."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def printable(text: str) -> str:
    """The text less what a terminal would obey, except line breaks and tabs: a model can write any bytes."""
    return "".join(character for character in text if (character >= " " and not "\x7f" <= character < "\xa0") or character in "\n\t")


def writer() -> Callable[[str], None]:
    """Writes pieces of an answer to stdout at once; to a terminal only what is printable, to a file or pipe every character."""
    clean = printable if sys.stdout.isatty() else str

    def write(text: str) -> None:
        if text:
            sys.stdout.write(clean(text))
            sys.stdout.flush()

    return write


def notice(text: str) -> None:
    """A remark on stderr, dim on a terminal."""
    dim, plain = ("\x1b[2m", "\x1b[0m") if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ("", "")
    print(f"{dim}{text}{plain}", file=sys.stderr, flush=True)


@contextmanager
def status(text: str) -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is going on, and is gone afterwards; nothing where that is no terminal."""

    def say(text: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    say(text)
    try:
        yield say
    finally:
        say("")


def figures(answer: Answer) -> str:
    """``prompt 31 tokens, 0.2 s · answer 64 tokens, 30.1 tokens/s``."""
    from pellucid.cli.numbers import duration

    its = answer.timings
    text = f"prompt {its.prompt_tokens} tokens, {duration(its.time_to_first_token)} · answer {its.new_tokens} tokens"
    if its.new_tokens > 1:
        text += f", {its.decode_tokens_per_second:.1f} tokens/s"
    return text + (" · cut off by -n" if answer.finish_reason == "length" else "")
