"""Formats without tags: an answer that begins as JSON and names a tool is a call. Llama 3's, and ours for templates
that say nothing of tools.

Source: meta-llama/Llama-3.1-8B-Instruct, chat template; meta-llama/llama-models, ``prompt_format.md``.
"""

from __future__ import annotations

import json

from pellucid.text.tools.asked import Asked
from pellucid.text.tools.deltas import Calls
from pellucid.text.tools.format import ToolFormat
from pellucid.text.tools.lark import SPACE, Rules
from pellucid.text.tools.named import named_rule, read_named
from pellucid.text.tools.source import Source, Step, Tags, Writer, next_is, read, space, until

WORDS = r"/\s{0,4}([^{\s](?s:.*))?/"  # an answer in words does not begin as a call does: it could not be told from one


class BareJson(ToolFormat):
    begin = ""
    arguments = "arguments"  # the key's name
    several = "\n"  # what stands between two calls; "": the model makes one at a time

    def answer_rule(self, asked: Asked, rules: Rules) -> str:
        if not asked.calls:
            return super().answer_rule(asked, rules)
        called = f"{SPACE}? {self.calls_rule(asked, rules)}"
        if asked.choice == "required":
            return called
        return f"({called} | {asked.answer or WORDS})"

    def calls_rule(self, asked: Asked, rules: Rules) -> str:
        call = rules.add("call", named_rule(asked, self.arguments))
        return f"{call} ({json.dumps(self.several)} {call})*" if asked.parallel and self.several else call

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
        source.keep()
        yield from space(source)
        if self.begin and (yield from read(source, self.begin)):
            yield from space(source)
        while (yield from next_is(source, "{")) is not None:
            before = calls.count
            if not (yield from read_named(source, calls, asked.names)) or calls.count == before:
                break
            source.keep()
            yield from space(source)
            yield from read(source, ";")
            yield from space(source)
        source.text, source.kept = source.kept + source.text, ""  # what is no call is text
        return calls.count > 0


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
