"""Examples of what to say: text, completion, conversation, exchange, instruction, pair of answers, judged answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    ``unlearned`` (OpenAI's ``"weight": 0``) and those that say nothing, unless these are wanted, too.
    """

    messages: list[Message]
    tools: list[Any] | None = None
    num_before: int = 0
    unlearned: frozenset[int] = frozenset()
    keeps_empty: bool = False

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
        return [
            place
            for place in self.assistant
            if place not in self.unlearned and (self.keeps_empty or says(self.messages[place]))
        ]

    @property
    def num_unasked(self) -> int:
        """The assistant's messages that nobody asked for: no more than what a later answer follows."""
        return sum(one["role"] == "assistant" for one in self.messages[:1]) if not self.num_before else 0

    @property
    def has_system(self) -> bool:
        return bool(self.messages) and self.messages[0]["role"] in ("system", "developer")

    @property
    def num_empty(self) -> int:
        """The assistant's messages that would be learned if they said anything."""
        return sum(place not in self.unlearned and not says(self.messages[place]) for place in self.assistant)


@dataclass(frozen=True)
class Exchange:
    """A question and its answer: a conversation for a model that has a chat format, and for one that has none a text,
    the answer on the line after the question.
    """

    question: str
    answer: str
    system: str | None = None

    def conversation(self) -> Conversation:
        messages: list[Message] = [] if self.system is None else [{"role": "system", "content": self.system}]
        asked = {"role": "user", "content": self.question}
        return Conversation([*messages, asked, {"role": "assistant", "content": self.answer}])

    def completion(self) -> Completion:
        parts = [part for part in (self.system, self.question) if part]
        return Completion("".join(part if part[-1:].isspace() else part + "\n" for part in parts), self.answer)


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
        before = f"{self.system}\n\n" if self.system else ""
        return Completion(
            f"{before}Below is an instruction that describes a task{paired}. "
            f"Write a response that appropriately completes the request.\n\n{asked}### Response:",
            self.output,
        )


@dataclass(frozen=True)
class Pair:
    """Two endings of the same beginning, of which the first is preferred."""

    chosen: Completion | Conversation
    rejected: Completion | Conversation


Example = Text | Completion | Conversation | Exchange | Instruction | Pair


def is_empty(example: Example) -> bool:
    """Whether nothing is said in what would be learned: then only that an answer ends would be."""
    match example:
        case Text(text):
            return not text.strip()
        case Completion(_, completion):
            return not completion.strip()
        case Exchange():
            return not example.answer.strip()
        case Instruction():
            return not example.output.strip()
        case Conversation():
            return example.num_empty > 0 and not example.answers
        case Pair(chosen, rejected):
            return is_empty(chosen) or is_empty(rejected)


def is_unlearned(example: Example) -> bool:
    """Whether the assistant speaks, and none of what it says is to be learned."""
    return isinstance(example, Conversation) and bool(example.assistant) and not example.answers


def with_system(example: Example, system: str) -> Example:
    """The example with a system message, where it can have one and has none; else the very same."""
    match example:
        case Exchange() | Instruction():
            return example if example.system else replace(example, system=system)
        case Conversation():
            if example.has_system:
                return example
            moved = frozenset(place + 1 for place in example.unlearned)
            num_before = example.num_before + 1 if example.num_before else 0
            messages = [{"role": "system", "content": system}, *example.messages]
            return replace(example, messages=messages, unlearned=moved, num_before=num_before)
        case Pair(chosen, rejected) if isinstance(chosen, Conversation) and isinstance(rejected, Conversation):
            return Pair(*(_conversation_of(with_system(one, system)) for one in (chosen, rejected)))
        case _:
            return example


def _conversation_of(example: Example) -> Conversation:
    assert isinstance(example, Conversation)
    return example


def takes_system(example: Example) -> bool:
    """Whether an example is one that a system message may stand before."""
    return isinstance(example, (Exchange, Instruction, Conversation)) or (
        isinstance(example, Pair) and isinstance(example.chosen, Conversation)
    )


def last_alone(example: Example) -> Example:
    """A conversation of which the last answer is learned alone; anything else as it is."""
    if not isinstance(example, Conversation):
        return example
    return replace(example, unlearned=example.unlearned | frozenset(example.answers[:-1]))


def keeping_empty(example: Example) -> Example:
    """The same, its empty answers to be learned, too."""
    match example:
        case Conversation():
            return replace(example, keeps_empty=True)
        case Pair(chosen, rejected):
            ends = (chosen, rejected)
            return Pair(*(replace(one, keeps_empty=True) if isinstance(one, Conversation) else one for one in ends))
        case _:
            return example
