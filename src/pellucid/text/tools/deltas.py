"""``Delta``: what is new in an answer, as OpenAI's API streams it; and the message that deltas add up to."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class CallDelta:
    """Of the ``index``-th tool call: ``id`` and ``name`` in its first delta and in no other, ``arguments`` (JSON text)
    in pieces.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """One of the three."""

    content: str = ""
    reasoning: str = ""
    call: CallDelta | None = None


class Calls:
    """Numbers and names an answer's tool calls. ``new_id`` makes their ids."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self.count, self._new_id = 0, new_id

    def open(self, name: str) -> Delta:
        """A call begins."""
        self.count += 1
        return Delta(call=CallDelta(index=self.count - 1, id=self._new_id(), name=name))

    def arguments(self, text: str) -> Delta:
        """A piece of the last call's arguments."""
        return Delta(call=CallDelta(index=self.count - 1, arguments=text))


def call_id() -> str:
    """As OpenAI's look: ``call_`` and 24 letters or digits."""
    return "call_" + letters(24)


def letters(count: int) -> str:
    """So many letters and digits, drawn."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(count))


@dataclass
class Message:
    """What an answer said, thought and called, whole."""

    content: str = ""
    reasoning: str = ""
    calls: list[CallDelta] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        self.content += delta.content
        self.reasoning += delta.reasoning
        if (new := delta.call) is not None:
            if new.index == len(self.calls):
                self.calls.append(new)
            else:
                one = self.calls[new.index]
                joined = one.arguments + new.arguments
                self.calls[new.index] = CallDelta(index=one.index, id=one.id, name=one.name, arguments=joined)

    def to_openai(self) -> dict[str, Any]:
        """The assistant's message of a chat completion: ``content`` is None where it only calls."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content or (None if self.calls else "")}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [
                {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": one.arguments}}
                for one in self.calls
            ]
        return message


def joined(deltas: Iterable[Delta]) -> Message:
    """The message that deltas add up to."""
    message = Message()
    for delta in deltas:
        message.add(delta)
    return message
