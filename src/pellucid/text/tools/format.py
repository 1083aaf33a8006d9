"""``ToolFormat``: how a family of models writes thoughts and tool calls; what is the same for all of them.

An answer is a thought, if the model thinks, then text, then calls. A format says how a call is written (``call_rule``)
and how one is read (``read_calls``), after the tag that begins them; it is one file.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from pellucid.text.tools.asked import Asked
from pellucid.text.tools.deltas import Calls, Delta, call_id
from pellucid.text.tools.lark import ANY_TEXT, SPACE, Rules, literal
from pellucid.text.tools.named import BARE, bare_rule, read_bare
from pellucid.text.tools.source import Source, Step, Tags, Writer, read, space, until


@dataclass(frozen=True)
class Thought:
    """The tags around a thought."""

    begin: str
    end: str


THINK = Thought("<think>", "</think>")


class ToolFormat(ABC):
    """``special``: the tokenizer's special tokens, text → id. ``thought``: None where the template knows of none."""

    name: str
    begin: str  # the tag that begins the first call
    bare = False  # left to choose, its models forget the tags: an answer that begins as JSON and names a tool is a call

    def __init__(self, template: str = "", special: Mapping[str, int] | None = None) -> None:
        self.template, self.special = template, dict(special or {})
        self.thought = self.find_thought(template)

    @staticmethod
    def find_thought(template: str) -> Thought | None:
        """The tags of a model that thinks aloud; None for a template that has none."""
        return THINK if THINK.end in template else None

    @cached_property
    def dropped(self) -> frozenset[str]:
        """Special tokens that say nothing in an answer."""
        return frozenset(self.special)

    # --- what a format says ---

    @abstractmethod
    def calls_rule(self, asked: Asked, rules: Rules) -> str:
        """What follows ``begin``: the rest of the first call and, if ``asked.parallel``, further ones."""

    @abstractmethod
    def read_calls(self, source: Source, calls: Calls, asked: Asked) -> Step[bool]:
        """Read what follows ``begin``; False where it is no call, and nothing has been said of one."""

    new_id: Callable[[], str] = staticmethod(call_id)

    def instructions(self, asked: Asked) -> str | None:
        """What the system message must say of the tools; None where the template writes them by itself."""
        return None

    # --- the grammar ---

    def grammar(self, asked: Asked, prompt: str = "") -> str | None:
        """The answer as Lark, with the tool calls held to their schemas; None: any text will do.

        ``prompt``: the rendered conversation, whose end may have begun a thought.
        """
        if not asked.calls and asked.answer is None:
            return None
        rules = Rules(self.special)
        rules.add("start", f"{self.thought_rule(prompt, rules)} {self.answer_rule(asked, rules, prompt)}")
        return rules.text()

    def answer_rule(self, asked: Asked, rules: Rules, prompt: str) -> str:
        if not asked.calls:
            return asked.answer or ANY_TEXT
        calls = self.calls_rule(asked, rules)
        tagged = f"{SPACE}? {self.literal(self.begin)} {calls}"
        if asked.choice == "required":
            return tagged
        if asked.answer is not None:
            return f"({asked.answer} | {tagged})"
        said = self.words_rule(rules, prompt)
        bare = f" | {bare_rule(asked, rules)}" if self.bare else ""
        return f"({said} | {rules.until(self.begin, said)} {calls}{bare})"

    def words_rule(self, rules: Rules, prompt: str) -> str:
        """The rule for text that begins neither as a thought does nor as a call without tags: it would win over them,
        for of several lexemes the longest is followed.
        """
        begins = [BARE] if self.bare else []
        if self.thought is not None and self.thinking(prompt) == "free" and self.thought.begin not in self.special:
            begins.append(re.escape(self.thought.begin))
        return rules.add("WORDS", rf"{ANY_TEXT} & ~/\s*({'|'.join(begins)})(?s:.*)/") if begins else ANY_TEXT

    def thought_rule(self, prompt: str, rules: Rules) -> str:
        if (thought := self.thought) is None:
            return ""
        match self.thinking(prompt):
            case "open":
                return f"{rules.until(thought.end)} {SPACE}?"
            case "closed":
                return f"{SPACE}?"
        begin = self.literal(thought.begin)
        if thought.begin not in self.special:
            begin = rf"/[ \t\r\n]{{0,4}}{re.escape(thought.begin)}/"
        return f"({begin} {rules.until(thought.end)} {SPACE}?)?"

    def thinking(self, prompt: str) -> str:
        """Where the prompt leaves the model: ``open`` inside a thought, ``closed`` after one, else ``free``."""
        if self.thought is None:
            return "none"
        end = prompt.rstrip()
        return "open" if end.endswith(self.thought.begin) else "closed" if end.endswith(self.thought.end) else "free"

    def literal(self, text: str) -> str:
        return literal(text, self.special)

    # --- the parser ---

    def parser(
        self, asked: Asked | None = None, prompt: str = "", new_id: Callable[[], str] | None = None
    ) -> AnswerParser:
        """Reads one answer, whose special tokens are in its text. Without tools, what looks like a call is text."""
        return AnswerParser(self, asked or Asked(), prompt, new_id or self.new_id)

    def tags(self, asked: Asked) -> Tags:
        return Tags.of(*([self.begin] if asked.calls else []), dropped=self.dropped)

    def read_answer(self, source: Source, calls: Calls, asked: Asked, prompt: str) -> Step[None]:
        thought = yield from self.read_thought(source, prompt)
        if self.bare and asked.calls and asked.answer is None and asked.choice == "auto":
            yield from read_bare(source, calls, asked.names)
        content, tags = Writer("content", strip=thought or calls.count > 0), self.tags(asked)
        while (tag := (yield from until(source, tags, content))) is not None:
            content.drop()
            yield from self.read_or_say(source, calls, asked, tag, content)
        yield from content.flush()

    def read_or_say(self, source: Source, calls: Calls, asked: Asked, tag: str, content: Writer) -> Step[None]:
        """Calls; what turns out to be none is said as it stands, but for one that is cut off."""
        source.keep(tag)
        called = yield from self.read_calls(source, calls, asked)
        if source.ended:  # in the middle of a call: what is left is no text
            source.take(len(source.text))
        elif not called:
            yield from content(source.kept)

    def read_thought(self, source: Source, prompt: str) -> Step[bool]:
        """The thought, if the answer begins with one; whether text after it begins anew."""
        state, thought = self.thinking(prompt), self.thought
        if thought is None or state == "closed":
            return state == "closed"
        source.keep()
        yield from space(source)
        if not (yield from read(source, thought.begin)) and state != "open":
            source.text = source.kept + source.text
            return False
        reasoning = Writer("reasoning", strip=True)
        tag = yield from until(source, Tags.of(thought.end, dropped=self.dropped), reasoning)
        if tag is None:
            yield from reasoning.flush()
        return True


class AnswerParser:
    """One answer, read as it comes. ``push`` takes its text, special tokens in it, in pieces however cut; the deltas
    joined are the same.
    """

    def __init__(self, form: ToolFormat, asked: Asked, prompt: str, new_id: Callable[[], str]) -> None:
        self._source, self._calls = Source(), Calls(new_id)
        self._steps: Iterator[Delta | None] | None = form.read_answer(self._source, self._calls, asked, prompt)

    def push(self, text: str) -> list[Delta]:
        """What is certain now."""
        self._source.text += text
        return self._run()

    def finish(self) -> list[Delta]:
        """What waited for more."""
        self._source.ended = True
        return self._run()

    @property
    def calls(self) -> int:
        """Tool calls so far: where there are any, the answer's ``finish_reason`` is ``tool_calls``."""
        return self._calls.count

    def _run(self) -> list[Delta]:
        deltas: list[Delta] = []
        if self._steps is not None:
            for delta in self._steps:
                if delta is None:
                    return deltas
                if delta.call is None or delta.call.name or delta.call.arguments:
                    deltas.append(delta)
            self._steps = None
        return deltas
