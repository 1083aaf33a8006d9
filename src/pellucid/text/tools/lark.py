"""Lark, the language of llguidance's grammars, as far as schemas and tool calls need it.

Source: guidance-ai/llguidance, ``docs/syntax.md`` and ``docs/json_schema.md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

# Between the parts of JSON: nothing, some spaces, or one line end and its indentation. Without a bound, a model that
# does not know how to go on writes spaces until its context is full.
WHITESPACE = r"[ \t]{1,4}|\r?\n[ \t]{0,64}"
ANY_TEXT = "/(?s:.*)/"
SPACE = r"/[ \t\r\n]{1,4}/"
EMPTY = '""'


def json_value(schema: Mapping[str, Any], *, lenient: bool = False) -> str:
    """The rule for a JSON value of the schema. ``lenient``: keywords that cannot be held to are passed over."""
    plain = {key: value for key, value in schema.items() if key != "x-guidance"}  # options are ours to set
    options = {"whitespace_pattern": WHITESPACE, "lenient": lenient}
    return "%json " + json.dumps({**plain, "x-guidance": options}, ensure_ascii=False)


def literal(text: str, special: Mapping[str, int] | None = None) -> str:
    """The rule for this very text; special tokens in it (text → id) are those tokens."""
    parts: list[str] = []
    longest_first = sorted((token for token in special or () if token in text), key=len, reverse=True)
    while text:
        token = next((token for token in longest_first if text.startswith(token)), None)
        if token is not None and special is not None:
            parts.append(f"<[{special[token]}]>")
            text = text[len(token) :]
            continue
        end = min((at for token in longest_first if (at := text.find(token)) > 0), default=len(text))
        parts.append(json.dumps(text[:end], ensure_ascii=False))
        text = text[end:]
    return " ".join(parts) or EMPTY


def either(rules: Iterable[str]) -> str:
    """One of these."""
    return "(" + " | ".join(rules) + ")"


class Rules:
    """A grammar's rules by name, in the order in which they were added."""

    def __init__(self, special: Mapping[str, int]) -> None:
        self._special, self._rules = special, dict[str, str]()

    def add(self, name: str, rule: str, *, lazy: bool = False) -> str:
        """The name by which the rule can be used; with a number where there is another rule of that name."""
        numbered, count = name, 1
        while numbered in self._rules:
            count += 1
            numbered = f"{name}_{count}"
        self._rules[numbered] = f"{numbered}{'[lazy]' if lazy else ''}: {rule}"
        return numbered

    def until(self, tag: str, before: str = ANY_TEXT) -> str:
        """The rule for any text (or ``before``) up to this tag, and the tag."""
        if tag in self._special:
            return f"{before} {literal(tag, self._special)}"
        return self.add("until", f"{before} {literal(tag)}", lazy=True)

    def text(self) -> str:
        return "\n".join(self._rules.values())
