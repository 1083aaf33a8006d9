"""GLM 4.5's and later ones' format: the name, then each argument's key and value between tags.

    <tool_call>get_weather
    <arg_key>city</arg_key>
    <arg_value>Paris</arg_value>
    </tool_call>

Source: zai-org/GLM-4.6, chat template.
"""

from __future__ import annotations

from pellucid.text.tools.asked import Asked, Tool
from pellucid.text.tools.deltas import Calls
from pellucid.text.tools.format import ToolFormat
from pellucid.text.tools.lark import SPACE, Rules, either
from pellucid.text.tools.source import Source, Step, Tags, next_is, read, read_end, read_until, space
from pellucid.text.tools.typed import Arguments, arguments_in_order, text_rule

KEY, END_KEY, VALUE, END_VALUE = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"


class Glm(ToolFormat):
    name = "glm"
    begin, end = "<tool_call>", "</tool_call>"

    def calls_rule(self, asked: Asked, rules: Rules) -> str:
        until_end = rules.until(END_VALUE)
        one = either(self._call_rule(tool, until_end) for tool in asked.tools)
        call = rules.add("call", f"{one} {self.literal(self.end)}")
        return f"{call} ({SPACE}? {self.literal(self.begin)} {call})*" if asked.parallel else call

    def _call_rule(self, tool: Tool, until_end: str) -> str:
        names, required = arguments_in_order(tool)
        parts = [self.literal(f"{tool.name}\n")]
        for name in names:
            head = self.literal(f"{KEY}{name}{END_KEY}\n{VALUE}")
            value = text_rule(tool, name, until_end, self.literal(END_VALUE))
            parts.append(f'({head} {value} "\\n")' + ("" if name in required else "?"))
        return " ".join(parts)

    def read_calls(self, source: Source, calls: Calls, asked: Asked) -> Step[bool]:
        name, tag = yield from read_until(source, Tags.of("\n", KEY, self.end))
        name = name.strip()
        if tag is None or not name:
            return False
        if tag != "\n":
            source.text = tag + source.text
        yield calls.open(name)
        arguments = Arguments(calls, asked.tool(name))
        while True:
            yield from space(source)
            if not (yield from read(source, KEY)):
                break
            key, tag = yield from read_until(source, Tags.of(END_KEY))
            yield from space(source)
            if tag is None or not (yield from read(source, VALUE)):
                break
            if not (yield from arguments.value(source, key.strip(), Tags.of(END_VALUE), line=False)):
                return True  # cut off
        if (yield from next_is(source, self.end)) is not None or not source.ended:
            yield arguments.end()
            yield from read_end(source, self.end)
        return True
