"""Added tokens: strings that become one token each, cut out of the text before the model of the vocabulary sees it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pellucid.base.errors import TokenizerError


@dataclass(frozen=True)
class AddedToken:
    """A token beside the vocabulary's own. ``special`` ones are dropped by ``decode(skip_special_tokens=True)``."""

    content: str
    special: bool = False
    lstrip: bool = False  # it swallows the white space on its left
    rstrip: bool = False  # … on its right
    single_word: bool = False  # only where it is not part of a longer word
    normalized: bool = True  # matched in the normalized text

    def __str__(self) -> str:
        return self.content

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def as_added_token(value: Any, where: object, *, special: bool = False) -> AddedToken:
    """An AddedToken from what configs hold: a string, or an object with ``content`` and flags.

    Raises: TokenizerError where it is neither.
    """
    if isinstance(value, AddedToken):
        return value
    if isinstance(value, str):
        return AddedToken(value, special=special, normalized=not special)
    if isinstance(value, Mapping) and isinstance(value.get("content"), str):
        is_special = bool(value.get("special", special))
        flags = {name: bool(value.get(name, False)) for name in ("lstrip", "rstrip", "single_word")}
        return AddedToken(
            value["content"], special=is_special, normalized=bool(value.get("normalized", not is_special)), **flags
        )
    raise TokenizerError(
        "an added token is neither a string nor an object with 'content'", where=where, received=repr(value)[:80]
    )


class AddedTokenSplitter:
    """Cuts text at added tokens: leftmost first, the longest at each place."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        self._tokens = {token.content: token for token in tokens if token.content}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def split(self, text: str) -> Iterator[tuple[int, int, str | None]]:
        """Yields (start, end, content) in characters of ``text``, content None for the ordinary text between tokens.

        The ranges tile the text; a token that strips white space owns what it swallowed.
        """
        if self._pattern is None:
            if text:
                yield 0, len(text), None
            return
        done = 0
        for match in self._pattern.finditer(text):
            token = self._tokens[match.group()]
            start, end = match.span()
            if start < done or (token.single_word and _inside_word(text, start, end)):
                continue
            if token.lstrip:
                while start > done and text[start - 1].isspace():
                    start -= 1
            if token.rstrip:
                while end < len(text) and text[end].isspace():
                    end += 1
            if start > done:
                yield done, start, None
            yield start, end, token.content
            done = end
        if done < len(text):
            yield done, len(text), None


def _inside_word(text: str, start: int, end: int) -> bool:
    before, after = text[start - 1 : start], text[end : end + 1]
    return _is_word(before) or _is_word(after)


def _is_word(character: str) -> bool:
    return character == "_" or character.isalnum()
