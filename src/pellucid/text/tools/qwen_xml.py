"""The format of Qwen3-Coder, Qwen 3.5 and Nemotron 3: a function, and each parameter between tags on lines of its own.

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Paris
    </parameter>
    </function>
    </tool_call>

Source: Qwen/Qwen3-Coder-30B-A3B-Instruct, chat template.
"""

from __future__ import annotations

from pellucid.text.tools.asked import Asked, Tool
from pellucid.text.tools.deltas import Calls
from pellucid.text.tools.format import ToolFormat
from pellucid.text.tools.lark import SPACE, Rules, either
from pellucid.text.tools.source import Source, Step, Tags, read, read_end, read_until, space
from pellucid.text.tools.typed import Arguments, arguments_in_order, text_rule

END_PARAMETER = "</parameter>"


class QwenXml(ToolFormat):
    name = "qwen-xml"
    begin, end = "<tool_call>", "</tool_call>"

    def calls_rule(self, asked: Asked, rules: Rules) -> str:
        until_end = rules.until(END_PARAMETER)
        one = either(self._call_rule(tool, until_end) for tool in asked.tools)
        call = rules.add("call", f"{one} {self.literal('</function>' + chr(10) + self.end)}")
        return f"{call} ({SPACE}? {self.literal(self.begin)} {call})*" if asked.parallel else call

    def _call_rule(self, tool: Tool, until_end: str) -> str:
        names, required = arguments_in_order(tool)
        parts = [self.literal(f"\n<function={tool.name}>\n")]
        for name in names:
            value = text_rule(tool, name, until_end, self.literal(f"\n{END_PARAMETER}"))
            head = self.literal(f"<parameter={name}>\n")
            parts.append(f'({head} {value} "\\n")' + ("" if name in required else "?"))
        return " ".join(parts)

    def read_calls(self, source: Source, calls: Calls, asked: Asked) -> Step[bool]:
        yield from space(source)
        if not (yield from read(source, "<function=")):
            return False
        name, tag = yield from read_until(source, Tags.of(">", "\n"))
        name = name.strip().strip("\"'")
        if tag is None or not name:
            return False
        yield calls.open(name)
        arguments = Arguments(calls, asked.tool(name))
        while True:
            yield from space(source)
            if not (yield from read(source, "<parameter=")):
                break
            key, tag = yield from read_until(source, Tags.of(">"))
            if tag is None:
                break
            if not (yield from arguments.value(source, key.strip().strip("\"'"), Tags.of(END_PARAMETER), line=True)):
                return True  # cut off
        if (yield from read(source, "</function>")) or not source.ended:
            yield arguments.end()
        yield from space(source)
        yield from read_end(source, self.end)
        return True
