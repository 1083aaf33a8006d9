"""Formats without tags: an answer that begins as JSON and names a tool is a call. Llama 3's, and ours for templates
that say nothing of tools.

Source: meta-llama/Llama-3.1-8B-Instruct, chat template; meta-llama/llama-models, ``prompt_format.md``.
"""

from __future__ import annotations

import json

from pellucid.text.tools.asked import Asked
from pellucid.text.tools.deltas import Calls
from pellucid.text.tools.format import ToolFormat
from pellucid.text.tools.lark import Rules
from pellucid.text.tools.named import bare_rule, read_bare
from pellucid.text.tools.source import Source, Step, Tags, Writer, until


class BareJson(ToolFormat):
    begin, bare = "", True
    arguments = "arguments"  # the key's name
    several = "\n"  # what stands between two calls; "": the model makes one at a time

    def answer_rule(self, asked: Asked, rules: Rules, prompt: str) -> str:
        if not asked.calls:
            return super().answer_rule(asked, rules, prompt)
        called = self.calls_rule(asked, rules)
        return (
            called if asked.choice == "required" else f"({called} | {asked.answer or self.words_rule(rules, prompt)})"
        )

    def calls_rule(self, asked: Asked, rules: Rules) -> str:
        return bare_rule(asked, rules, self.arguments, self.several)

    def tags(self, asked: Asked) -> Tags:
        return Tags.of(dropped=self.dropped)

    def read_answer(self, source: Source, calls: Calls, asked: Asked, prompt: str) -> Step[None]:
        thought = yield from self.read_thought(source, prompt)
        if asked.calls:
            yield from self.read_calls(source, calls, asked)
        content = Writer("content", strip=thought or calls.count > 0)
        yield from until(source, self.tags(asked), content)
        yield from content.flush()

    def read_calls(self, source: Source, calls: Calls, asked: Asked) -> Step[bool]:
        return (yield from read_bare(source, calls, asked.names, self.begin))


class Llama3(BareJson):
    name = "llama3"
    begin, arguments, several = "<|python_tag|>", "parameters", ""


class Generic(BareJson):
    name = "generic"

    def instructions(self, asked: Asked) -> str | None:
        if not asked.tools:
            return None
        tools = "\n".join(
            json.dumps(
                {"name": tool.name, "description": tool.description or "", "parameters": dict(tool.parameters)},
                ensure_ascii=False,
            )
            for tool in asked.tools
        )
        return (
            f"You can call these functions:\n{tools}\n\n"
            'To call one, answer with nothing but {"name": function name, "arguments": its arguments as an object}. '
            "The function's result comes in the next message. Where no function helps, answer in words."
        )
