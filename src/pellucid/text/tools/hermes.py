"""Hermes's format, which Qwen 2.5 and 3, SmolLM3 and many others write: JSON between ``<tool_call>`` tags.

Source: NousResearch/Hermes-Function-Calling; Qwen/Qwen3-0.6B, chat template.
"""

from __future__ import annotations

from pellucid.text.tools.asked import Asked
from pellucid.text.tools.deltas import Calls
from pellucid.text.tools.format import ToolFormat
from pellucid.text.tools.lark import SPACE, Rules
from pellucid.text.tools.named import named_rule, read_named
from pellucid.text.tools.source import Source, Step, read_end, space


class Hermes(ToolFormat):
    name = "hermes"
    begin, end = "<tool_call>", "</tool_call>"
    bare = True

    def calls_rule(self, asked: Asked, rules: Rules) -> str:
        call = rules.add("call", f'"\\n" {named_rule(asked)} "\\n" {self.literal(self.end)}')
        return f"{call} ({SPACE}? {self.literal(self.begin)} {call})*" if asked.parallel else call

    def read_calls(self, source: Source, calls: Calls, asked: Asked) -> Step[bool]:
        yield from space(source)
        if not (yield from read_named(source, calls)):
            return False
        yield from space(source)
        yield from read_end(source, self.end)
        return True
