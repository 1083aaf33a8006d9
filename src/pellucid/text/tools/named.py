"""A call as one JSON object that names itself: ``{"name": "f", "arguments": {…}}``."""

from __future__ import annotations

import json
import re
from collections.abc import Collection

from pellucid.text.tools.asked import Asked, Tool
from pellucid.text.tools.deltas import Calls
from pellucid.text.tools.lark import SPACE, WHITESPACE, Rules, either, json_value
from pellucid.text.tools.source import Source, Step, json_string, json_text, next_is, read, read_end, space

_BLANK = r"[ \t\r\n]{0,4}"
ARGUMENTS = ("arguments", "parameters")
FIRST_KEYS = ("name", "type", "function", "id", *ARGUMENTS)  # with which an object that is a call begins


def named_rule(asked: Asked, arguments: str = "arguments") -> str:
    """The rule for such an object, for one of the tools, as templates write it."""
    return either(_object_rule(tool, arguments) for tool in asked.tools)


def _object_rule(tool: Tool, arguments: str) -> str:
    begin = f'{{"name": {json.dumps(tool.name)}, "{arguments}": '
    return f"{json.dumps(begin)} {arguments_rule(tool)} {json.dumps('}')}"


def bare_rule(asked: Asked, rules: Rules, arguments: str = "arguments", several: str = "") -> str:
    """The rule for an answer that is such an object and nothing else, laid out in any way, in a fence or not; or
    ``several``, with that between them.
    """
    gap = rules.add("gap", f"/{WHITESPACE}/")

    def calls(before: str) -> str:
        """All up to the arguments is one lexeme: only the longest of several is followed, and that of words, which may
        stand here too, goes on only as far as nothing is said of a call.
        """
        heads = (
            (tool, [before, r"\{", '"name"', ":", f'"{re.escape(tool.name)}"', ",", f'"{arguments}"', ":", ""])
            for tool in asked.tools
        )
        return either(f'/{f"({WHITESPACE})?".join(parts)}/ {arguments_rule(tool)} {gap}? "}}"' for tool, parts in heads)

    one = rules.add("bare", calls(_BLANK))
    more = f"({json.dumps(several)} {one})*" if asked.parallel and several else ""
    fenced = rules.add("fenced", calls(f"{_BLANK}```(json)?"))
    return f'({one} {more} | {fenced} {SPACE}? "```")'


BARE = rf'(```(json)?\s*)?\{{\s*"({"|".join(FIRST_KEYS)})"'  # how an answer begins that may be read as a call


def read_bare(source: Source, calls: Calls, known: Collection[str], begin: str = "") -> Step[bool]:
    """Read calls with which an answer begins, after ``begin`` or a fence where there is one; what is none stays."""
    source.keep()
    yield from space(source)
    if begin and (yield from read(source, begin)):
        yield from space(source)
    while True:
        fence = yield from next_is(source, "```json", "```")
        if fence is not None:
            yield from read(source, fence)
            yield from space(source)
        before = calls.count
        if (yield from next_is(source, "{")) is None:
            break
        if not (yield from read_named(source, calls, known, FIRST_KEYS)) or calls.count == before:
            break
        source.keep()
        yield from space(source)
        if fence is not None:
            yield from read_end(source, "```")
            source.keep()
            yield from space(source)
        yield from read(source, ";")
        yield from space(source)
    source.text, source.kept = source.kept + source.text, ""
    return calls.count > 0


def arguments_rule(tool: Tool) -> str:
    """The rule for a tool's arguments as JSON."""
    return json_value(tool.parameters, lenient=not tool.strict)


def read_named(
    source: Source, calls: Calls, known: Collection[str] | None = None, first: Collection[str] | None = None
) -> Step[bool]:
    """Read such an object; False where it is none, its name is not ``known``, or its ``first`` key none of these.

    Its keys come in any order; what they hold beside name and arguments (an id, a type) is passed over, and so is an
    object around both (``"function"``). Arguments that are themselves a string of JSON are taken out of it.
    """
    state = _Named(calls, known, first)
    if not (yield from state.read(source)):
        return state.opened
    if not state.opened:
        return False
    if not state.argued:
        yield calls.arguments(state.early or "{}")
    return True


def read_arguments(source: Source, calls: Calls) -> Step[bool]:
    """Stream a JSON value as the last call's arguments; what is no object is made one where that can be."""
    if (yield from next_is(source, "{")) is not None:
        return (yield from json_text(source, lambda text: iter([calls.arguments(text)])))
    text = yield from _whole(source)
    if text is None:
        return False
    yield calls.arguments(_unpacked(text))
    return True


class _Named:
    def __init__(self, calls: Calls, known: Collection[str] | None, first: Collection[str] | None) -> None:
        self.calls, self.known, self.first = calls, known, first
        self.opened = self.argued = False
        self.early = ""  # arguments that came before the name

    def read(self, source: Source) -> Step[bool]:
        if not (yield from read(source, "{")):
            return False
        while True:
            yield from space(source)
            if (yield from read(source, "}")):
                return True
            if (yield from read(source, ",")):
                continue
            key = yield from json_string(source)
            yield from space(source)
            if key is None or not (yield from read(source, ":")) or (self.first is not None and key not in self.first):
                return False
            self.first = None
            yield from space(source)
            if not (yield from self._value(source, key)):
                return False

    def _value(self, source: Source, key: str) -> Step[bool]:
        if key in ("name", "function") and not self.opened and (yield from next_is(source, '"')) is not None:
            name = yield from json_string(source)
            if not name or (self.known is not None and name not in self.known):
                return False
            self.opened = True
            yield self.calls.open(name)
            if self.early:
                self.argued = True
                yield self.calls.arguments(self.early)
            return True
        if key == "function" and (yield from next_is(source, "{")) is not None:
            return (yield from self.read(source))
        if key in ARGUMENTS and not self.argued:
            if self.opened:
                self.argued = True
                return (yield from read_arguments(source, self.calls))
            text = yield from _whole(source)
            self.early = _unpacked(text or "")
            return text is not None
        return (yield from json_text(source, lambda text: iter(())))


def _whole(source: Source) -> Step[str | None]:
    parts: list[str] = []
    whole = yield from json_text(source, lambda text: iter(parts.append(text) or ()))
    return "".join(parts) if whole else None


def _unpacked(text: str) -> str:
    """Arguments as an object's text: those in a string are taken out, null is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, str):
        return value or "{}"
    return "{}" if value is None else text
