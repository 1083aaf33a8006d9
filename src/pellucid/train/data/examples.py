"""Examples of what to say, of five kinds: text, completion, conversation, instruction, and pair of answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]


def says(message: Message) -> bool:
    """Whether a message has something to say: a text that is not white space alone, or a call of a tool."""
    return bool(message.get("content", "").strip() or message.get("tool_calls"))


@dataclass(frozen=True)
class Text:
    """A text, all of which is learned."""

    text: str


@dataclass(frozen=True)
class Completion:
    """A text of which the second part is learned."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Conversation:
    """Messages of which the assistant's are learned: all, or those after the first ``num_before``, but the places in
    ``unlearned`` (OpenAI's ``"weight": 0``) and those that say nothing.
    """

    messages: list[Message]
    tools: list[Any] | None = None
    num_before: int = 0
    unlearned: frozenset[int] = frozenset()

    @property
    def assistant(self) -> list[int]:
        """Places of the assistant's messages that could be learned: what it says before anybody asked cannot be asked
        for.
        """
        first = max(self.num_before, 1)
        return [place for place, one in enumerate(self.messages) if one["role"] == "assistant" and place >= first]

    @property
    def answers(self) -> list[int]:
        """Places of the messages that are learned."""
        return [place for place in self.assistant if place not in self.unlearned and says(self.messages[place])]

    @property
    def num_empty(self) -> int:
        """The assistant's messages that would be learned if they said anything."""
        return sum(place not in self.unlearned and not says(self.messages[place]) for place in self.assistant)


@dataclass(frozen=True)
class Instruction:
    """Alpaca's record: a conversation for a model that has a chat format, and a text in Alpaca's words for one that has
    none.
    """

    instruction: str
    input: str
    output: str
    system: str | None = None
    history: tuple[tuple[str, str], ...] = ()

    def conversation(self) -> Conversation:
        messages: list[Message] = [] if self.system is None else [{"role": "system", "content": self.system}]
        for question, answer in self.history:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        asked = f"{self.instruction}\n{self.input}" if self.input else self.instruction
        return Conversation(
            [*messages, {"role": "user", "content": asked}, {"role": "assistant", "content": self.output}]
        )

    def completion(self) -> Completion:
        """Source: tatsu-lab/stanford_alpaca, train.py, PROMPT_DICT."""
        paired = ", paired with an input that provides further context" if self.input else ""
        asked = f"### Instruction:\n{self.instruction}\n\n" + (f"### Input:\n{self.input}\n\n" if self.input else "")
        return Completion(
            f"Below is an instruction that describes a task{paired}. "
            f"Write a response that appropriately completes the request.\n\n{asked}### Response:",
            self.output,
        )


@dataclass(frozen=True)
class Pair:
    """Two endings of the same beginning, of which the first is preferred."""

    chosen: Completion | Conversation
    rejected: Completion | Conversation


Example = Text | Completion | Conversation | Instruction | Pair


def is_empty(example: Example) -> bool:
    """Whether nothing is said in what would be learned: then only that an answer ends would be."""
    match example:
        case Text(text):
            return not text.strip()
        case Completion(_, completion):
            return not completion.strip()
        case Instruction():
            return not example.output.strip()
        case Conversation():
            return example.num_empty > 0 and not example.answers
        case Pair(chosen, rejected):
            return is_empty(chosen) or is_empty(rejected)


def is_unlearned(example: Example) -> bool:
    """Whether the assistant speaks, and none of what it says is to be learned."""
    return isinstance(example, Conversation) and bool(example.assistant) and not example.answers
