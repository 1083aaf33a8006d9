"""Arguments that are written as text, one by one, as tags do it; their types are in the tool's schema.

A string stands as it is; anything else as JSON. What may be a string or something else is JSON where it reads as such
and the schema has that type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pellucid.text.tools.asked import Tool
from pellucid.text.tools.deltas import Calls, Delta
from pellucid.text.tools.lark import either, json_value, literal
from pellucid.text.tools.source import Source, Step, Tags, read_until, until

_TYPES = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}
_DEEPEST = 8


def types_of(schema: Any, root: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """The JSON types that a schema allows; all of them where it does not say."""
    every = frozenset(_TYPES.values())
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return every
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target: Any = root
        for part in reference[2:].split("/"):
            target = target.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
        return types_of(target, root, depth + 1)
    if isinstance(named := schema.get("type"), (str, list)):
        return frozenset([named] if isinstance(named, str) else named)
    if isinstance(values := schema.get("enum", [schema["const"]] if "const" in schema else None), list):
        return frozenset(_TYPES.get(type(value), "null") for value in values)
    for key in ("anyOf", "oneOf"):
        if isinstance(choices := schema.get(key), list):
            return frozenset().union(*(types_of(choice, root, depth + 1) for choice in choices))
    return every


def argument_schema(tool: Tool, name: str) -> Any:
    """The schema of one argument; an empty one where the tool says nothing of it."""
    properties = tool.parameters.get("properties")
    schema = properties.get(name) if isinstance(properties, Mapping) else None
    return {} if schema is None else schema


def value_of(text: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """The value that stands as ``text``."""
    types = types_of(schema, root)
    if types == {"string"}:
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    named = _TYPES[type(value)]
    return value if named in types or (named == "integer" and "number" in types) or "string" not in types else text


def text_rule(tool: Tool, name: str, until_end: str, end: str) -> str:
    """The rule for an argument's value and the ``end`` after it; ``until_end`` is the one for any text before it."""
    schema, root = argument_schema(tool, name), tool.parameters
    if not isinstance(schema, Mapping):
        return f"{json_value({})} {end}"
    types = types_of(schema, root)
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list) and values:
        spelled = (one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in values)
        return f"{either(literal(one) for one in spelled)} {end}"
    if "string" in types:
        return until_end
    definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
    return f"{json_value({**definitions, **schema}, lenient=not tool.strict)} {end}"


def arguments_in_order(tool: Tool) -> tuple[list[str], frozenset[str]]:
    """The names of a tool's arguments, and those that are required."""
    properties = tool.parameters.get("properties")
    names = [name for name in properties if isinstance(name, str)] if isinstance(properties, Mapping) else []
    return names, frozenset(tool.parameters.get("required") or ())


class Arguments:
    """Arguments read one by one, told as the pieces of one JSON object."""

    def __init__(self, calls: Calls, tool: Tool | None) -> None:
        self._calls, self._tool, self._count = calls, tool, 0

    def value(self, source: Source, name: str, end: Tags, *, line: bool) -> Step[bool]:
        """Read the argument's value up to its end tag. ``line``: a line end before it and after it is not its own.

        False where the text ends before it does.
        """
        schema = {} if self._tool is None else argument_schema(self._tool, name)
        root: Mapping[str, Any] = {} if self._tool is None else self._tool.parameters
        yield self._calls.arguments(f"{', ' if self._count else '{'}{json.dumps(name, ensure_ascii=False)}: ")
        self._count += 1
        if types_of(schema, root) != {"string"}:
            text, tag = yield from read_until(source, end)
            text = text.removeprefix("\n").removesuffix("\n") if line else text
            value = value_of(text.strip(), schema, root)
            value = text if isinstance(value, str) and value == text.strip() else value
            yield self._calls.arguments(json.dumps(value, ensure_ascii=False))
            return tag is not None
        yield self._calls.arguments('"')
        tag = yield from until(source, end, _Quoted(self._calls, line=line))
        yield self._calls.arguments('"')
        return tag is not None

    def end(self) -> Delta:
        return self._calls.arguments("}" if self._count else "{}")


class _Quoted:
    """Writes a string's characters as JSON has them. ``line``: but for a line end at its beginning and at its end."""

    def __init__(self, calls: Calls, *, line: bool) -> None:
        self._calls, self._line, self._begun, self._held = calls, line, False, ""

    def __call__(self, text: str) -> Iterator[Delta]:
        if self._line:
            if not self._begun:
                self._begun, text = True, text.removeprefix("\n")
            text = self._held + text
            self._held = "\n" if text.endswith("\n") else ""
            text = text.removesuffix("\n")
        if text:
            yield self._calls.arguments(json.dumps(text, ensure_ascii=False)[1:-1])
