"""What a fine-tuning file holds: records in the formats of the field, told apart by their keys, as examples of five
kinds.

| format | keys |
|---|---|
| text | ``text`` |
| prompt and completion | ``prompt``, ``completion``: texts, or lists of messages |
| messages | ``messages`` (OpenAI's), or ``conversations`` (ShareGPT's ``from``/``value``); with ``tools``, ``system`` |
| alpaca | ``instruction``, ``output``; with ``input``, ``system``, ``history`` (Stanford's seed tasks: ``instances``) |
| preference | ``chosen``, ``rejected``: texts, messages or lists of them; with any of the above as what comes before |
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pellucid.train.data.sources import DataError, records

SUFFIXES = (".jsonl", ".json")
Message = dict[str, Any]

# ShareGPT's and LLaMA-Factory's names for what everybody else calls otherwise.
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}
_ROLES |= {"observation": "tool", "function_response": "tool"}
_FORMATS = "text, prompt and completion, messages, conversations, instruction and output, or chosen and rejected"


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
    """Messages of which the assistant's are learned: all, or those after the first ``given``."""

    messages: list[Message]
    tools: list[Any] | None = None
    given: int = 0


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
            f"Below is an instruction that describes a task{paired}. Write a response that appropriately completes the request.\n\n"
            f"{asked}### Response:",
            self.output,
        )


@dataclass(frozen=True)
class Pair:
    """Two endings of the same beginning, of which the first is preferred."""

    chosen: Completion | Conversation
    rejected: Completion | Conversation


Example = Text | Completion | Conversation | Instruction | Pair


@dataclass(frozen=True)
class Read:
    """An example, the name of its format, and its place for messages; ``None`` where the record says that it is a bad
    one.
    """

    example: Example | None
    format: str
    where: str


def read_examples(
    path: Path, fill: Mapping[str, str] = MappingProxyType({}), filled: set[str] | None = None
) -> Iterator[Read]:
    """The examples of a file, in order. ``fill`` says what takes the place of ``{{name}}`` in every text; ``filled``
    collects the names found.

    Raises: DataError naming the record that is in no known format, and what is wrong with it.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(
            "fine-tuning reads records, not plain text",
            where=path,
            expected="a .jsonl or .json file",
            remedy='write {"text": "…"} a line; or `pellucid pretrain` learns from plain text',
        )
    for record, where in records(path):
        yield from _read(_filled(record, fill, set() if filled is None else filled) if fill else record, where)


def _filled(value: Any, fill: Mapping[str, str], filled: set[str]) -> Any:
    if isinstance(value, str):
        for name, its in fill.items():
            if (place := "{{" + name + "}}") in value:
                filled.add(name)
                value = value.replace(place, its)
        return value
    if isinstance(value, dict):
        return {key: _filled(its, fill, filled) for key, its in value.items()}
    return [_filled(its, fill, filled) for its in value] if isinstance(value, list) else value


def _read(record: Any, where: str) -> Iterator[Read]:
    if not isinstance(record, Mapping):
        raise DataError("a record must be an object", where=where, expected=_FORMATS, received=type(record).__name__)
    record = {key: value for key, value in record.items() if value is not None}  # tables write None for what is absent
    if "chosen" in record and "rejected" in record:
        yield Read(_pair(record, where), "preference", where)
    elif "completion" in record and "prompt" in record:
        yield Read(_completion(record, where), "prompt and completion", where)
    elif "messages" in record or "conversations" in record:
        # KTO's label says whether the answer was a good one.
        example = _conversation(record, where) if record.get("label", True) else None
        yield Read(example, "messages" if "messages" in record else "ShareGPT conversations", where)
    elif "instruction" in record and "instances" in record:
        for instance in _is(list, record["instances"], "instances", where):
            yield Read(_instruction({**record, **_is(dict, instance, "an instance", where)}, where), "seed task", where)
    elif "instruction" in record and "output" in record:
        yield Read(_instruction(record, where), "alpaca", where)
    elif "text" in record:
        yield Read(Text(_is(str, record["text"], "text", where)), "text", where)
    else:
        keys = ", ".join(map(str, record))
        raise DataError(
            "the record is in no format known here", where=where, expected=_FORMATS, received=keys[:200] or "{}"
        )


def _is(kind: type, value: Any, name: str, where: str) -> Any:
    if not isinstance(value, kind):
        raise DataError(
            f"{name} has the wrong type",
            where=where,
            expected=kind.__name__,
            received=f"{type(value).__name__} {value!r}"[:200],
        )
    return value


def _completion(record: Mapping[str, Any], where: str) -> Completion | Conversation:
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, list):
        given = _messages(prompt, where)
        return Conversation([*given, *_messages(completion, where)], _tools(record, where), len(given))
    return Completion(_is(str, prompt, "prompt", where), _is(str, completion, "completion", where))


def _instruction(record: Mapping[str, Any], where: str) -> Instruction:
    texts = [_is(str, record.get(name, ""), name, where) for name in ("instruction", "input", "output")]
    history = _is(list, record.get("history", []), "history", where)
    if not all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn) for turn in history
    ):
        raise DataError(
            "history has the wrong form", where=where, expected="[[question, answer], …]", received=repr(history)[:200]
        )
    system = record.get("system") or None
    return Instruction(*texts, system=system, history=tuple((question, answer) for question, answer in history))


def _pair(record: Mapping[str, Any], where: str) -> Pair:
    """What comes before the two answers is given apart (as text, messages or an instruction), or is how both begin."""
    tools, answers = _tools(record, where), [record["chosen"], record["rejected"]]
    if "instruction" in record:
        given = _instruction({**record, "output": ""}, where).conversation().messages[:-1]
    elif isinstance(before := record.get("messages", record.get("conversations", record.get("prompt"))), list):
        given = _with_system(record, _messages(before, where))
    elif all(isinstance(answer, str) for answer in answers):
        prompt = _is(str, record.get("prompt", ""), "prompt", where)
        if not prompt:
            chosen, rejected = answers
            same = next(
                (place for place, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
                min(len(chosen), len(rejected)),
            )
            prompt = chosen[: chosen.rfind("\n", 0, same) + 1]  # whole lines
            answers = [answer[len(prompt) :] for answer in answers]
        return Pair(*(Completion(prompt, answer) for answer in answers))
    else:
        given = [] if before is None else [{"role": "user", "content": _is(str, before, "prompt", where)}]
    ends = [_ending(answer, where) for answer in answers]
    if not given and all(len(end) > 1 for end in ends):  # both tell the whole conversation
        chosen, rejected = ends
        num_same = next(
            (place for place, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
            min(len(chosen), len(rejected)),
        )
        given, ends = chosen[:num_same], [end[num_same:] for end in ends]
    elif given and all(end[: len(given)] == given for end in ends):  # told again
        ends = [end[len(given) :] for end in ends]
    return Pair(*(Conversation([*given, *end], tools, len(given)) for end in ends))


def _ending(answer: Any, where: str) -> list[Message]:
    if isinstance(answer, str):
        return [{"role": "assistant", "content": answer}]
    return _messages(answer if isinstance(answer, list) else [answer], where)


def _conversation(record: Mapping[str, Any], where: str) -> Conversation:
    messages = _messages(record.get("messages", record.get("conversations")), where)
    return Conversation(_with_system(record, messages), _tools(record, where))


def _with_system(record: Mapping[str, Any], messages: list[Message]) -> list[Message]:
    system = record.get("system")
    return [{"role": "system", "content": system}, *messages] if isinstance(system, str) and system else messages


def _messages(values: Any, where: str) -> list[Message]:
    """Messages with ``role`` and ``content``, whatever the record calls them. Calls of tools have ids, which some
    templates want.
    """
    messages: list[Message] = []
    num_calls = 0
    for value in _is(list, values, "the list of messages", where):
        message = _message(value, where)
        for call in message.get("tool_calls", ()):
            num_calls += 1
            call.setdefault("id", f"call{num_calls:05d}")
        if message["role"] == "tool" and num_calls:
            message.setdefault("tool_call_id", f"call{num_calls:05d}")
        messages.append(message)
    return messages


def _message(value: Any, where: str) -> Message:
    expected = '{"role": …, "content": …} or {"from": …, "value": …}'
    if not isinstance(value, Mapping):
        raise DataError("a message must be an object", where=where, expected=expected, received=type(value).__name__)
    role = value.get("role", value.get("from"))
    content = value.get("content", value.get("value"))
    calls = value.get("tool_calls")
    if not isinstance(role, str) or not (isinstance(content, (str, list)) or (content is None and calls)):
        raise DataError(
            "a message lacks its role or content", where=where, expected=expected, received=repr(dict(value))[:200]
        )
    if role == "function_call":
        called = content if isinstance(content, list) else _from_json(content, "a function_call", where)
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": [_call(call, where) for call in (called if isinstance(called, list) else [called])],
        }
    message = {key: its for key, its in value.items() if key not in ("from", "value") and its is not None}
    message |= {"role": _ROLES.get(role, role), "content": "" if content is None else content}
    return (
        message
        if not calls
        else {**message, "tool_calls": [_call(call, where) for call in _is(list, calls, "tool_calls", where)]}
    )


def _call(call: Any, where: str) -> dict[str, Any]:
    """A tool call as templates read it: ``{"type": "function", "function": {"name": …, "arguments": {…}}}``."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(
            "a tool call lacks its name",
            where=where,
            expected='{"name": …, "arguments": {…}}',
            received=repr(call)[:200],
        )
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):  # OpenAI writes them as JSON within JSON
        arguments = _from_json(arguments, "a tool call's arguments", where)
    more = {key: its for key, its in call.items() if key not in ("function", "name", "arguments", "type")}
    return {**more, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _tools(record: Mapping[str, Any], where: str) -> list[Any] | None:
    """The tools as schemas, ``{"type": "function", "function": {…}}``; they may be given as JSON in a string."""
    tools = record.get("tools")
    if isinstance(tools, str):
        tools = _from_json(tools, "tools", where) if tools.strip() else None
    if not tools:
        return None
    listed = _is(list, tools, "tools", where)
    return [
        {"type": "function", "function": tool} if isinstance(tool, Mapping) and "name" in tool else tool
        for tool in listed
    ]


def _from_json(text: Any, name: str, where: str) -> Any:
    try:
        return json.loads(_is(str, text, name, where))
    except (ValueError, RecursionError):
        raise DataError(f"{name} must be JSON", where=where, received=text[:200]) from None
