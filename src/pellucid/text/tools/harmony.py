"""gpt-oss's format, harmony: messages, each to a channel. Thoughts go to ``analysis``, calls to a function's name.

    <|channel|>analysis<|message|>I look it up.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather
     <|constrain|>json<|message|>{"city": "Paris"}<|call|>

Source: openai/harmony, ``docs/format.md``; openai/gpt-oss-120b, chat template.
"""

from __future__ import annotations

import re
from functools import cached_property

from pellucid.text.tools.asked import Asked
from pellucid.text.tools.deltas import Calls
from pellucid.text.tools.format import Thought, ToolFormat
from pellucid.text.tools.lark import ANY_TEXT, Rules, either
from pellucid.text.tools.named import arguments_rule, read_arguments
from pellucid.text.tools.source import Source, Step, Tags, Writer, read_until, space, until

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
END, CALL, RETURN, CONSTRAIN = "<|end|>", "<|call|>", "<|return|>", "<|constrain|>"
NAMESPACE = "functions."
_RECIPIENT = re.compile(r"to=(\S+)")
_CHANNEL = re.compile(re.escape(CHANNEL) + r"\s*(\w+)")
_TO = f"to={NAMESPACE}"
_ENDS = (START, END, CALL, RETURN)


class Harmony(ToolFormat):
    name = "harmony"
    begin = CHANNEL

    @staticmethod
    def find_thought(template: str) -> Thought | None:
        return None  # thoughts are messages, not tags

    # --- the grammar ---

    def answer_rule(self, asked: Asked, rules: Rules, prompt: str) -> str:
        again = self.literal(f"{END}{START}assistant")
        before = rules.add(
            "before",
            f"{self.literal(CHANNEL)} {self._before(asked)} {self.literal(MESSAGE)} {ANY_TEXT} {again}",
        )
        final = f"{self.literal(f'{CHANNEL}final{MESSAGE}')} {asked.answer or ANY_TEXT}"
        if not asked.calls:
            return f"{before}* {final}"
        called = self.calls_rule(asked, rules)
        return f"{before}* {called if asked.choice == 'required' else either([final, called])}"

    def _before(self, asked: Asked) -> str:
        """Channels of messages that come first: a preamble may announce calls."""
        return '("analysis" | "commentary")' if asked.calls and asked.choice == "auto" else '"analysis"'

    def calls_rule(self, asked: Asked, rules: Rules) -> str:
        """One call ends the answer, so there is never a second."""
        kind = f'{self.literal(CONSTRAIN)} "json"' if CONSTRAIN in self.special else '"json"'
        return rules.add(
            "call",
            either(
                f"({self.literal(f'{CHANNEL}commentary to={NAMESPACE}{tool.name} ')} {kind}"
                f' | {self.literal(f" to={NAMESPACE}{tool.name}{CHANNEL}commentary ")} ({kind} | "json"))'
                f" {self.literal(MESSAGE)} {arguments_rule(tool)}"
                for tool in asked.tools
            ),
        )

    # --- the parser ---

    def read_answer(self, source: Source, calls: Calls, asked: Asked, prompt: str) -> Step[None]:
        said = False
        while True:
            header, tag = yield from read_until(
                source, Tags.of(MESSAGE, *((START, END) if said else ()), dropped=self.dropped)
            )
            if tag is None:
                begun = header.strip()[: len(_TO)]
                if not said and CHANNEL not in header and not _TO.startswith(begun):  # no message at all: text
                    yield from Writer("content", strip=False)(header)
                return
            if tag != MESSAGE:
                continue
            said = True
            recipient, channel = _RECIPIENT.search(header), _CHANNEL.search(header)
            if recipient is not None and recipient[1].startswith(NAMESPACE):
                name = recipient[1].removeprefix(NAMESPACE).split("<")[0]
                tag = yield from self._read_call(source, calls, name)
            else:
                thinks = channel is not None and channel[1] == "analysis"
                writer = Writer("reasoning" if thinks or recipient is not None else "content", strip=False)
                tag = yield from until(source, Tags.of(*_ENDS, dropped=self.dropped), writer)
                yield from writer.flush()
            if tag is None:
                return

    def _read_call(self, source: Source, calls: Calls, name: str) -> Step[str | None]:
        yield calls.open(name)
        yield from space(source)
        yield from read_arguments(source, calls)
        _, tag = yield from read_until(source, Tags.of(*_ENDS, dropped=self.dropped))
        return tag

    @cached_property
    def dropped(self) -> frozenset[str]:
        return frozenset(self.special) - {START, CHANNEL, MESSAGE, END, CALL, RETURN, CONSTRAIN}

    def read_calls(self, source: Source, calls: Calls, asked: Asked) -> Step[bool]:
        raise NotImplementedError("harmony's calls are messages")
