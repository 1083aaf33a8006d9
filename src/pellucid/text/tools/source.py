"""Reading a text that comes in pieces: parsers are generators that yield deltas, and None where more text is needed.

What they give for a text does not depend on where it was cut: a tag is recognised once it is whole, and text that may
become one waits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import lru_cache
from typing import TypeVar

from pellucid.text.tools.deltas import Delta

T = TypeVar("T")
Step = Generator[Delta | None, None, T]
Write = Callable[[str], Iterator[Delta]]
_SPACE = " \t\r\n"
_SCALAR_ENDS = frozenset(",}]" + _SPACE)
_BEGINNINGS = frozenset('{["')
_NO_VALUE = _SCALAR_ENDS | {":", "<"}


class Source:
    """``text`` has come and is not read yet; ``ended``: no more will come. ``kept`` repeats what was read since
    ``keep``.
    """

    def __init__(self) -> None:
        self.text, self.ended, self.kept = "", False, ""

    def take(self, length: int) -> str:
        """The next characters, now read."""
        taken, self.text = self.text[:length], self.text[length:]
        self.kept += taken
        return taken

    def keep(self, begun: str = "") -> None:
        self.kept = begun


class Tags:
    """``marks`` to look for, and ``dropped`` ones that vanish from the text (special tokens that say nothing here)."""

    def __init__(self, marks: Iterable[str], dropped: Iterable[str] = ()) -> None:
        self.marks = frozenset(marks)
        tags = sorted({*self.marks, *dropped} - {""}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, tags)) if tags else r"(?!)")
        self._beginnings = {tag[:end] for tag in tags for end in range(1, len(tag))}
        self._longest = max(map(len, tags), default=0)

    @staticmethod
    @lru_cache(128)
    def of(*marks: str, dropped: frozenset[str] = frozenset()) -> Tags:
        """The same, made once: a tokenizer may have a thousand special tokens."""
        return Tags(marks, dropped)

    def find(self, text: str, ended: bool) -> tuple[int, str | None]:
        """Where the first tag begins, and the tag; None: where the text begins that is not sure to hold none."""
        match = self._pattern.search(text)
        end = len(text)
        if not ended:
            first = max(end - self._longest + 1, 0)
            waits = next((at for at in range(first, end) if text[at:] in self._beginnings), end)
            if match is None or waits <= match.start():
                return waits, None
        return (end, None) if match is None else (match.start(), match.group())


def until(source: Source, tags: Tags, write: Write) -> Step[str | None]:
    """Write the text before the first mark, which is read, too, and returned; None where the text ends without one."""
    while True:
        at, tag = tags.find(source.text, source.ended)
        if at:
            yield from write(source.take(at))
        if tag is not None:
            source.take(len(tag))
            if tag in tags.marks:
                return tag
        elif source.ended:
            return None
        else:
            yield None


def read_until(source: Source, tags: Tags) -> Step[tuple[str, str | None]]:
    """The text before the first mark, whole, and the mark."""
    parts: list[str] = []
    tag = yield from until(source, tags, lambda text: iter(parts.append(text) or ()))
    return "".join(parts), tag


def space(source: Source) -> Step[None]:
    """Read white space."""
    while True:
        source.take(len(source.text) - len(source.text.lstrip(_SPACE)))
        if source.text or source.ended:
            return
        yield None


def next_is(source: Source, *texts: str) -> Step[str | None]:
    """Which of these the text goes on with, the longest, not read; None for none of them."""
    while not source.ended and any(text.startswith(source.text) and text != source.text for text in texts):
        yield None
    return max((text for text in texts if source.text.startswith(text)), key=len, default=None)


def read(source: Source, text: str) -> Step[bool]:
    """Read this text, if it comes next."""
    if (yield from next_is(source, text)) is None:
        return False
    source.take(len(text))
    return True


def read_end(source: Source, tag: str) -> Step[bool]:
    """Read the tag that ends a call; of one that is cut off, what there is of it."""
    if (yield from read(source, tag)):
        return True
    if source.ended and tag.startswith(source.text):
        source.take(len(source.text))
    return False


def json_string(source: Source) -> Step[str | None]:
    """A JSON string, read and decoded; None where none comes next."""
    parts: list[str] = []
    if (yield from next_is(source, '"')) is None:
        return None
    if not (yield from json_text(source, lambda text: iter(parts.append(text) or ()))):
        return None
    try:
        return json.loads("".join(parts), strict=False)
    except ValueError:
        return None


def json_text(source: Source, write: Write) -> Step[bool]:
    """Write the text of one JSON value as it comes, to its end and no further; False where it is none, or ends early.

    Brackets and strings are followed, no more: what stands between them is the model's.
    """
    while not source.text and not source.ended:
        yield None
    if not source.text or source.text[0] in _NO_VALUE:
        return False
    scan = _Scan(scalar=source.text[0] not in _BEGINNINGS)
    while True:
        end = scan.end(source.text)
        if text := source.take(len(source.text) if end is None else end):
            yield from write(text)
        if end is not None or source.ended:
            return end is not None or scan.scalar
        yield None


class _Scan:
    """Finds the end of one JSON value, in text that comes in pieces."""

    def __init__(self, *, scalar: bool) -> None:
        self.scalar, self._depth, self._in_string, self._escaped = scalar, 0, False, False

    def end(self, text: str) -> int | None:
        """How much of the text belongs to the value; None where it goes on."""
        for at, sign in enumerate(text):
            if self.scalar:
                if sign in _SCALAR_ENDS:
                    return at
            elif self._in_string:
                if self._escaped or sign == "\\":
                    self._escaped = not self._escaped
                elif sign == '"':
                    self._in_string = False
                    if not self._depth:
                        return at + 1
            elif sign == '"':
                self._in_string = True
            elif sign in "{[":
                self._depth += 1
            elif sign in "}]":
                self._depth -= 1
                if not self._depth:
                    return at + 1
        return None


class Writer:
    """Text as ``content`` or ``reasoning``. White space at its end waits: before a call it says nothing.

    ``strip``: none at the beginning either.
    """

    def __init__(self, kind: str, *, strip: bool) -> None:
        self._reasons, self._strip, self._held, self._begun = kind == "reasoning", strip, "", False

    def __call__(self, text: str) -> Iterator[Delta]:
        text = self._held + text
        if self._strip and not self._begun:
            text = text.lstrip()
        shown = text.rstrip()
        self._held = text[len(shown) :]
        if shown:
            self._begun = True
            yield self._delta(shown)

    def drop(self) -> None:
        """What waits is not said."""
        self._held = ""

    def flush(self) -> Iterator[Delta]:
        """What waits is said after all."""
        if self._held:
            yield self._delta(self._held)
            self._held = ""

    def _delta(self, text: str) -> Delta:
        return Delta(reasoning=text) if self._reasons else Delta(content=text)
