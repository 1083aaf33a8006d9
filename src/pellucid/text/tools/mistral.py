"""Mistral's formats, after ``[TOOL_CALLS]``: a JSON list (Nemo, v3 to v7), or name and JSON for each (v11 and later).

    [TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}}]
    [TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}

Ids are nine letters and digits. Source: mistralai/mistral-common, ``tokens/tokenizers/instruct.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pellucid.text.tools.asked import Asked
from pellucid.text.tools.deltas import Calls, letters
from pellucid.text.tools.format import THINK, Thought, ToolFormat
from pellucid.text.tools.lark import Rules, either
from pellucid.text.tools.named import arguments_rule, named_rule, read_arguments, read_named
from pellucid.text.tools.source import Source, Step, Tags, next_is, read, read_until, space

ARGS, CALL_ID = "[ARGS]", "[CALL_ID]"


class Mistral(ToolFormat):
    name = "mistral"
    begin = "[TOOL_CALLS]"
    new_id = staticmethod(lambda: letters(9))

    def __init__(self, template: str = "", special: Mapping[str, int] | None = None) -> None:
        super().__init__(template, special)
        self.listed = ARGS not in template

    @staticmethod
    def find_thought(template: str) -> Thought | None:
        if "[/THINK]" in template:
            return Thought("[THINK]", "[/THINK]")
        return THINK if THINK.end in template else None

    def calls_rule(self, asked: Asked, rules: Rules) -> str:
        if self.listed:
            call = rules.add("call", named_rule(asked))
            return f'"[" {call} ' + (f'(", " {call})* ' if asked.parallel else "") + '"]"'
        one = either(f"{self.literal(tool.name + ARGS)} {arguments_rule(tool)}" for tool in asked.tools)
        call = rules.add("call", one)
        return f"{call} ({self.literal(self.begin)} {call})*" if asked.parallel else call

    def read_calls(self, source: Source, calls: Calls, asked: Asked) -> Step[bool]:
        yield from space(source)
        if (yield from next_is(source, "[{", "[ ", "[\n")) is not None:
            return (yield from self._read_list(source, calls))
        name, tag = yield from read_until(source, Tags.of(ARGS, CALL_ID, "{"))
        if tag is None or not name.strip():
            return False
        if tag == CALL_ID:
            _, tag = yield from read_until(source, Tags.of(ARGS))
        elif tag == "{":
            source.text = tag + source.text
        yield calls.open(name.strip())
        yield from space(source)
        yield from read_arguments(source, calls)
        return True

    def _read_list(self, source: Source, calls: Calls) -> Step[bool]:
        read_one = False
        yield from read(source, "[")
        while True:
            yield from space(source)
            if not (yield from read_named(source, calls)):
                return read_one
            read_one = True
            yield from space(source)
            if not (yield from read(source, ",")):
                yield from read(source, "]")
                return True


def mistral_id(given: object) -> str:
    """An id that the templates take: nine letters and digits, the same for the same id."""
    text = given if isinstance(given, str) else json.dumps(given, default=str)
    if len(text) == 9 and text.isascii() and text.isalnum():
        return text
    import hashlib

    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:9]
