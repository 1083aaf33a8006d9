"""How much longer a tokenizer.json can make a text, told before the library is asked to.

A file of some kB can tell the library to write a text of terabytes: eight replacements of "a" by twenty of them are
20⁸ for every "a". The library does that inside one call that nothing can interrupt, so files whose replacements
together could lengthen a text more than ``MOST`` times are refused. Unicode's own normal forms, which lengthen some
characters, are known and bounded, and applied twice they change nothing more.

Its regular expressions (Oniguruma) end by themselves: a search that tries too often is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pellucid.base.errors import TokenizerError

MOST = 64
MOST_ADDED = 2**16  # characters put before or after a text, whatever its length


def check_growth(part: str, described: Any, where: object) -> None:
    """Raises: TokenizerError for a part (``normalizer``, ``decoder``), as tokenizer.json describes it, that could make
    a text more than ``MOST`` times longer.
    """
    growth, added = 1.0, 0.0
    for step in steps(described):
        factor, more = _growth(step)
        growth, added = growth * factor, added * factor + more
        if growth > MOST or added > MOST_ADDED:
            raise TokenizerError(
                f"the {part} can make a text enormously longer",
                where=where,
                expected=f"replacements that together write at most {MOST} characters for one",
                received=f"{growth:.3g}" if growth > MOST else f"{added:.3g} characters put before a text",
                remedy="no tokenizer needs that: the file is damaged, or made to exhaust memory",
            )


def steps(node: Any) -> Iterator[Mapping[str, Any]]:
    """The steps of a part, those of its sequences in their place."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting.extend(reversed(node))
        elif isinstance(node, Mapping):
            yield node
            waiting.extend(node[key] for key in ("normalizers", "decoders") if key in node)


def _growth(step: Mapping[str, Any]) -> tuple[float, float]:
    """(characters for one, characters besides) that a step writes at most."""
    if step.get("type") == "Prepend":
        return 1, len(str(step.get("prepend")))
    if step.get("type") != "Replace":
        return 1, 0
    content, pattern = len(str(step.get("content"))), step.get("pattern")
    text = pattern.get("String") if isinstance(pattern, Mapping) else None
    if isinstance(text, str) and text:
        return max(1, content / len(text)), 0
    regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
    return max(1, content + _can_match_nothing(regex)), content


def _can_match_nothing(pattern: Any) -> bool:
    """Whether a pattern may match between two characters, so that what it is replaced by comes on top of them."""
    try:
        return not isinstance(pattern, str) or re.compile(pattern).match("") is not None
    except (re.error, RecursionError, OverflowError):  # Oniguruma knows more than Python
        return True
