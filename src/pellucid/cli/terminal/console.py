"""Where output goes: results to stdout, everything about them to stderr."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pellucid.cli.terminal import streams

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
    return "".join(
        character
        for character in text
        if (character >= " " and not "\x7f" <= character < "\xa0") or character in "\n\t"
    )


def writer() -> Callable[[str], None]:
    """Writes pieces of an answer to stdout at once: to a file or pipe as they are, to a terminal printable and wrapped.

    On a terminal a word waits until it is whole; ``"\\n"`` lets the last one out.
    """
    wrapper = Wrapper(shutil.get_terminal_size().columns) if sys.stdout.isatty() else None

    def write(text: str) -> None:
        sys.stdout.write(text if wrapper is None else wrapper.push(printable(text)))
        sys.stdout.flush()

    return write


class Wrapper:
    """Breaks a stream of text between words instead of where the line is full."""

    def __init__(self, columns: int) -> None:
        self.columns, self.column, self.word = columns, 0, ""

    def push(self, text: str) -> str:
        """What can be shown now: whole words, and what separates them."""
        shown = []
        for character in text:
            if character == "\n":
                shown.append(self._word() + "\n")
                self.column = 0
            elif character.isspace():
                shown.append(self._word())
                if self.column < self.columns:  # at the edge the line break takes the space's place
                    shown.append(character)
                    self.column += 1 if character != "\t" else 8 - self.column % 8
            elif _is_wide(character):  # Chinese and Japanese break anywhere
                shown.append(self._word())
                self.word = character
                shown.append(self._word())
            else:
                self.word += character
        return "".join(shown)

    def _word(self) -> str:
        """The waiting word, on a new line where this one has no room for it and a new one has."""
        word, self.word = self.word, ""
        width = sum(2 if _is_wide(character) else 1 for character in word)
        fits = width <= self.columns < self.column + width
        if self.column and word and (fits or self.column >= self.columns):  # at the edge a space has been left out
            self.column = width if width <= self.columns else width % self.columns
            return "\n" + word
        self.column = (
            (self.column + width) % self.columns if self.column + width > self.columns else self.column + width
        )
        return word


def _is_wide(character: str) -> bool:
    return character >= "\u1100" and unicodedata.east_asian_width(character) in "WF"


def notice(text: str) -> None:
    """A remark on stderr, dim on a terminal."""
    dim, plain = ("\x1b[2m", "\x1b[0m") if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ("", "")
    streams.say(f"{dim}{text}{plain}")


@contextmanager
def status(text: str) -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is going on, and is gone afterwards; nothing where that is no terminal.

    The cursor waits at the line's beginning, so that whatever else is said meanwhile takes its place.
    """

    def say(text: str) -> None:
        if sys.stderr.isatty():
            streams.say(f"\x1b[K{text[:60]}\r", end="")

    say(text)
    try:
        yield say
    finally:
        say("")


def figures(answer: Answer, context_len: int) -> str:
    """``prompt 31 tokens (20 reused), 0.2 s · answer 64 tokens, 30.1 tokens/s, 26 of 40 guesses right``."""
    from pellucid.cli.terminal.numbers import duration

    timings = answer.timings
    reused = f" ({timings.reused_tokens} reused)" if timings.reused_tokens else ""
    text = f"prompt {timings.prompt_tokens} tokens{reused}, {duration(timings.time_to_first_token)}"
    text += f" · answer {timings.new_tokens} tokens"
    if timings.new_tokens > 1:
        text += f", {timings.decode_tokens_per_second:.1f} tokens/s"
    if timings.guessed_tokens:
        text += f", {timings.accepted_tokens} of {timings.guessed_tokens} guesses right"
    if answer.finish_reason != "length":
        return text
    return text + (
        " · the context is full" if timings.prompt_tokens + timings.new_tokens >= context_len else " · cut off by -n"
    )
