"""DeepSeek's format: calls between special tokens, V3.1's as name and JSON, V3's and R1's with a fenced block.

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Oslo"}<｜tool▁call▁end｜>…

Source: deepseek-ai/DeepSeek-V3.1 and DeepSeek-R1-0528, chat templates.
"""

from __future__ import annotations

from collections.abc import Mapping

from pellucid.text.tools.asked import Asked
from pellucid.text.tools.deltas import Calls
from pellucid.text.tools.format import ToolFormat
from pellucid.text.tools.lark import Rules, either
from pellucid.text.tools.named import arguments_rule, read_arguments
from pellucid.text.tools.source import Source, Step, Tags, next_is, read, read_end, read_until, space

CALL, SEPARATOR, END_CALL = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
FENCE = "```json\n"


class DeepSeek(ToolFormat):
    name = "deepseek"
    begin, end = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"

    def __init__(self, template: str = "", special: Mapping[str, int] | None = None) -> None:
        super().__init__(template, special)
        self.fenced = "```json" in template

    def calls_rule(self, asked: Asked, rules: Rules) -> str:
        one = either(
            f"{self.literal(self._head(tool.name))} {arguments_rule(tool)} {self.literal(self._tail())}"
            for tool in asked.tools
        )
        call = rules.add("call", one)
        further = f'("\\n"? {call})*' if asked.parallel else ""
        return f"{call} {further} {self.literal(self.end)}"

    def _head(self, name: str) -> str:
        return f"{CALL}function{SEPARATOR}{name}\n{FENCE}" if self.fenced else f"{CALL}{name}{SEPARATOR}"

    def _tail(self) -> str:
        return f"\n```{END_CALL}" if self.fenced else END_CALL

    def read_calls(self, source: Source, calls: Calls, asked: Asked) -> Step[bool]:
        read_one = False
        while True:
            yield from space(source)
            if not (yield from read(source, CALL)):
                break
            name, tag = yield from read_until(source, Tags.of(SEPARATOR))
            if tag is None:
                return read_one
            if (yield from next_is(source, "{")) is None and name.strip() == "function":
                name, tag = yield from read_until(source, Tags.of("\n"))
                yield from read(source, FENCE)
            if tag is None or not name.strip():
                return read_one
            read_one = True
            yield calls.open(name.strip())
            yield from space(source)
            if not (yield from read_arguments(source, calls)):
                return True
            yield from read_until(source, Tags.of(END_CALL))
        yield from read_end(source, self.end)
        return read_one
