"""Gemma 4's and FunctionGemma's format: arguments without JSON's quotes, strings between a token of their own.

    <|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:3}<tool_call|>
    <start_function_call>call:get_weather{city:<escape>Paris<escape>}<end_function_call>

Source: google/gemma-4 and google/functiongemma-270m-it, chat templates.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pellucid.text.tools.asked import Asked, Tool
from pellucid.text.tools.deltas import Calls, Delta
from pellucid.text.tools.format import Thought, ToolFormat
from pellucid.text.tools.lark import EMPTY, Rules, either, json_value, literal
from pellucid.text.tools.source import Source, Step, Tags, next_is, read, read_end, read_until, space, until
from pellucid.text.tools.typed import argument_schema, arguments_in_order, types_of

_DEEPEST = 32


class Gemma(ToolFormat):
    """``quote`` stands on both sides of a string, in which nothing is escaped."""

    name = "gemma"
    begin, end, quote = "<|tool_call>", "<tool_call|>", '<|"|>'

    @staticmethod
    def find_thought(template: str) -> Thought | None:
        return Thought("<|channel>thought", "<channel|>") if "<channel|>" in template else None

    # --- the grammar ---

    def calls_rule(self, asked: Asked, rules: Rules) -> str:
        string = f"{self.literal(self.quote)} {rules.until(self.quote)}"
        one = either(self._call_rule(tool, string, rules) for tool in asked.tools)
        call = rules.add("call", f"{one} {self.literal(self.end)}")
        return f"{call} ({self.literal(self.begin)} {call})*" if asked.parallel else call

    def _call_rule(self, tool: Tool, string: str, rules: Rules) -> str:
        names, required = arguments_in_order(tool)
        pairs = [
            (self.literal(f"{name}:") + " " + self._value_rule(argument_schema(tool, name), tool, string, rules), name)
            for name in names
        ]
        return f"{self.literal(f'call:{tool.name}{{')} {listed(pairs, required, rules)} {literal('}')}"

    def _value_rule(self, schema: Any, tool: Tool, string: str, rules: Rules) -> str:
        types = types_of(schema, tool.parameters)
        values = schema.get("enum") if isinstance(schema, Mapping) else None
        if isinstance(values, list) and values:
            return either(self.literal(self._written(value)) for value in values)
        choices = []
        if "string" in types:
            choices.append(string)
        if "array" in types and isinstance(schema, Mapping):
            item = self._value_rule(schema.get("items") or {}, tool, string, rules)
            item = rules.add("item", item)
            choices.append(f'("[" ({item} ("," {item})*)? "]")')
        if "object" in types and isinstance(schema, Mapping) and schema.get("properties"):
            inner = Tool(name=tool.name, parameters={**dict(tool.parameters), **schema})
            names, required = arguments_in_order(inner)
            pairs = [
                (
                    f"{self.literal(f'{name}:')} {self._value_rule(argument_schema(inner, name), tool, string, rules)}",
                    name,
                )
                for name in names
            ]
            choices.append(f'("{{" {listed(pairs, required, rules)} "}}")')
        elif types == {"object"}:
            key = r"/[A-Za-z_][A-Za-z0-9_]*/"
            choices.append(f'("{{" ({key} ":" {string} ("," {key} ":" {string})*)? "}}")')
        if plain := sorted(types & {"integer", "number", "boolean", "null"}):
            kept = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
            bounds = {key: schema[key] for key in kept if isinstance(schema, Mapping) and key in schema}
            choices.append(json_value({"type": plain, **bounds}, lenient=True))
        return either(choices)

    def _written(self, value: Any) -> str:
        """A value as the format spells it."""
        if isinstance(value, str):
            return f"{self.quote}{value}{self.quote}"
        if isinstance(value, Mapping):
            return "{" + ",".join(f"{key}:{self._written(one)}" for key, one in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + ",".join(map(self._written, value)) + "]"
        return json.dumps(value)

    # --- the parser ---

    def read_calls(self, source: Source, calls: Calls, asked: Asked) -> Step[bool]:
        yield from space(source)
        if not (yield from read(source, "call:")):
            return False
        name, tag = yield from read_until(source, Tags.of("{"))
        if tag is None or not name.strip():
            return False
        yield calls.open(name.strip())
        source.text = tag + source.text
        yield from self._read_value(source, calls, 0)
        yield from space(source)
        yield from read_end(source, self.end)
        return True

    def _read_value(self, source: Source, calls: Calls, depth: int) -> Step[bool]:
        """One value, told as JSON; False where the text ends, or is none."""
        yield from space(source)
        first = yield from next_is(source, self.quote, '"', "{", "[")
        if first in (self.quote, '"'):
            yield from read(source, first)
            yield calls.arguments('"')
            tag = yield from until(source, Tags.of(first), lambda text: _escaped(calls, text))
            yield calls.arguments('"')
            return tag is not None
        if first is None or depth > _DEEPEST:
            text, tag = yield from read_until(source, Tags.of(",", "}", "]", self.end))
            source.text = (tag or "") + source.text
            yield calls.arguments(_scalar(text.strip()))
            return tag is not None
        yield from read(source, first)
        close, count = {"{": "}", "[": "]"}[first], 0
        yield calls.arguments(first)
        while True:
            yield from space(source)
            if (yield from read(source, close)):
                yield calls.arguments(close)
                return True
            if source.ended and not source.text:
                return False
            if (yield from read(source, ",")):
                continue
            between = ", " if count else ""
            if first == "{":
                key, tag = yield from read_until(source, Tags.of(":"))
                if tag is None:
                    return False
                key = key.strip().removeprefix(self.quote).removesuffix(self.quote).strip('"')
                between += json.dumps(key, ensure_ascii=False) + ": "
            yield calls.arguments(between)
            count += 1
            if not (yield from self._read_value(source, calls, depth + 1)):
                return False


class FunctionGemma(Gemma):
    name = "functiongemma"
    begin, end, quote = "<start_function_call>", "<end_function_call>", "<escape>"


def listed(pairs: list[tuple[str, str]], required: frozenset[str], rules: Rules) -> str:
    """The rule for pairs in order with commas between them, of which only the required ones must be there."""
    first, more = EMPTY, EMPTY  # what may follow nothing, and what may follow a pair
    for pair, name in reversed(pairs):
        pair = rules.add("pair", pair)
        first = f"{pair} {more}" if name in required else f"({pair} {more} | {first})"
        more = rules.add("more", f'"," {pair} {more}' if name in required else f'("," {pair})? {more}')
    return first


def _escaped(calls: Calls, text: str) -> Iterator[Delta]:
    yield calls.arguments(json.dumps(text, ensure_ascii=False)[1:-1])


def _scalar(text: str) -> str:
    """A number, true, false or null as it stands; anything else is a string without its quotes."""
    try:
        return json.dumps(json.loads(text))
    except ValueError:
        return json.dumps(text, ensure_ascii=False)
