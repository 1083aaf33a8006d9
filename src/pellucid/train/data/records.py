"""What a fine-tuning file holds: records in the formats of the field, told apart by their keys, as examples.

| format | keys |
|---|---|
| text | ``text`` |
| prompt and completion | ``prompt``, ``completion``: texts as they stand (TRL's), or lists of messages |
| question and answer | one of ``QUESTIONS`` and one of ``ANSWERS``: what user and assistant say; with ``system`` |
| messages | ``messages`` (OpenAI's), or ``conversations`` (ShareGPT's ``from``/``value``); with ``tools``, ``system`` |
| alpaca | ``instruction``, ``output``; with ``input``, ``system``, ``history`` (Stanford's seed tasks: ``instances``) |
| Dolly | ``instruction``, ``response``; with ``context`` |
| preference | ``chosen``, ``rejected``: texts, messages or lists of them; with any of the above as what comes before |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pellucid.base.notice import notice
from pellucid.base.typed import shown
from pellucid.train.data.errors import DataError
from pellucid.train.data.examples import Completion, Conversation, Example, Exchange, Instruction, Message, Pair, Text
from pellucid.train.data.fields import Fields
from pellucid.train.data.messages import conversation, from_json, messages_of, of_type, tools_of
from pellucid.train.data.record_files import JSON, TABLES, check_is_data, records

SUFFIXES = (*JSON, *TABLES)
_FORMATS = (
    "text; prompt, completion; messages; conversations; question, answer; instruction, output; or chosen, rejected"
)
_CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns")
QUESTIONS = ("prompt", "question", "query", "input", "inputs", "user")
ANSWERS = ("response", "answer", "output", "targets", "assistant")
_SYSTEMS = ("system", "system_prompt")
_READ = {
    *("text", "completion", "tools", "instruction", "context", "history", "instances", "chosen", "rejected"),
    *("label", "kto_tag", *_CONVERSATIONS, *QUESTIONS, *ANSWERS, *_SYSTEMS),
}
MOST_NAMED = 8  # keys that no format reads
# Of KTO's records (TRL's name, LLaMA-Factory's): whether the answer was a good one.
_LABELS = ("label", "kto_tag")


@dataclass(frozen=True)
class Read:
    """An example, the name of its format, and its place for messages; ``None`` where the record says that it is a bad
    one, which is then in ``bad``. ``is_judged``: the record says what it is.
    """

    example: Example | None
    format: str
    where: str
    bad: Example | None = None
    is_judged: bool = False


def read_examples(
    path: Path,
    fill: Mapping[str, str] = MappingProxyType({}),
    filled: set[str] | None = None,
    fields: Fields | None = None,
) -> Iterator[Read]:
    """The examples of a file, in order. ``fill`` says what takes the place of ``{{name}}`` in every text; ``filled``
    collects the names found. ``fields``: what the columns of the file are, where their names do not say it.

    Raises: DataError naming the record that is in no known format, and what is wrong with it.
    """
    if path.suffix.lower() not in SUFFIXES and not (path.is_file() and _looks_like_json(path)):
        raise DataError(
            "fine-tuning reads records, not plain text",
            where=path,
            expected="JSON lines or a JSON list, CSV, or Parquet",
            remedy='write {"text": "…"} a line; or `pellucid pretrain` learns from plain text',
        )
    unread: dict[str, None] = {}
    for record, where in records(path):
        record = _filled(record, fill, set() if filled is None else filled) if fill else record
        if fields is not None:
            yield from _read(fields.of(record, where), where)
            continue
        yield from _read(record, where)
        if len(unread) <= MOST_NAMED:
            unread |= dict.fromkeys(sorted(map(str, set(record) - _READ)))
    if unread:
        names = ", ".join(map(repr, list(unread)[:MOST_NAMED])) + (", …" if len(unread) > MOST_NAMED else "")
        notice(f"{path}: keys of records that nothing here reads have no effect: {names}")


def _looks_like_json(path: Path) -> bool:
    check_is_data(path)
    with open(path, "rb") as file:
        return file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def _filled(value: Any, fill: Mapping[str, str], filled: set[str]) -> Any:
    if isinstance(value, str):
        for name, text in fill.items():
            if (place := "{{" + name + "}}") in value:
                filled.add(name)
                value = value.replace(place, text)
        return value
    if isinstance(value, dict):
        return {key: _filled(part, fill, filled) for key, part in value.items()}
    return [_filled(part, fill, filled) for part in value] if isinstance(value, list) else value


def _read(record: Any, where: str) -> Iterator[Read]:
    if not isinstance(record, Mapping):
        raise DataError("a record must be an object", where=where, expected=_FORMATS, received=type(record).__name__)
    record = {key: value for key, value in record.items() if value is not None}  # tables write None for what is absent
    good, is_judged = _is_good(record, where), any(name in record for name in _LABELS)
    for example, name in _examples(record, where):
        yield Read(example if good else None, name, where, None if good else example, is_judged)


def _is_good(record: Mapping[str, Any], where: str) -> bool:
    """What KTO's label says of the answer; True where there is none.

    A label may be something else: a class (a number beside a text), a topic (a word). Raises: DataError for a number
    beside an answer that is neither yes nor no.
    """
    for name in _LABELS:
        label = record.get(name, True)
        if isinstance(label, str) and label.strip().lower() in ("true", "false"):
            label = label.strip().lower() == "true"
        elif isinstance(label, str) and label.strip() in ("0", "1"):  # in a table all are texts
            label = int(label)
        if isinstance(label, bool):
            if not label:
                return False
        elif isinstance(label, (int, float)) and "text" not in record and "chosen" not in record:
            if label not in (0, 1):
                raise DataError(
                    f"the {name} says whether the answer is a good one",
                    where=where,
                    expected="true or false",
                    received=label,
                    remedy=f"learn from the good ones alone, and leave the {name} out",
                )
            if not label:
                return False
    return True


def _examples(record: Mapping[str, Any], where: str) -> Iterator[tuple[Example, str]]:
    spoken = next((name for name in _CONVERSATIONS if name in record), None)
    question, answer = (next((name for name in names if name in record), None) for names in (QUESTIONS, ANSWERS))
    if "chosen" in record and "rejected" in record:
        yield _pair(record, where), "preference"
    elif "completion" in record and "prompt" in record:
        yield _completion(record["prompt"], record["completion"], record, where), "prompt and completion"
    elif spoken is not None:
        messages = _parsed(record[spoken], spoken, where)
        example = conversation(messages, where, system=_system_of(record), tools=tools_of(record, where))
        yield example, "ShareGPT conversations" if spoken == "conversations" else spoken
    elif "instruction" in record and "instances" in record:
        for instance in of_type(list, record["instances"], "instances", where):
            yield _instruction({**record, **of_type(dict, instance, "an instance", where)}, where), "seed task"
    elif "instruction" in record and answer is not None:
        renamed = {"output": record[answer], **({"input": record["context"]} if "context" in record else {})}
        yield _instruction({**record, **renamed}, where), "alpaca" if answer == "output" else "Dolly"
    elif question is not None and answer is not None:
        yield _exchange(record, question, answer, where), f"{question} and {answer}"
    elif "text" in record:
        yield Text(of_type(str, record["text"], "text", where)), "text"
    else:
        keys = ", ".join(map(str, record))
        raise DataError(
            "the record is in no format known here",
            where=where,
            expected=_FORMATS,
            received=keys[:200] or "{}",
            remedy="--fields user=COLUMN,assistant=COLUMN says which is which",
        )


def _parsed(value: Any, name: str, where: str) -> Any:
    """A list, or one that is written as JSON in a text, as tables have it."""
    return from_json(value, name, where) if isinstance(value, str) and value.lstrip()[:1] == "[" else value


def _system_of(record: Mapping[str, Any]) -> Any:
    return next((record[name] for name in _SYSTEMS if record.get(name)), None)


def _exchange(record: Mapping[str, Any], question: str, answer: str, where: str) -> Exchange | Conversation:
    if isinstance(record[question], list):
        return _completion(record[question], record[answer], record, where)  # type: ignore[return-value]
    texts = [of_type(str, record[name], name, where) for name in (question, answer)]
    system = _system_of(record)
    return Exchange(*texts, system=None if system is None else of_type(str, system, "system", where))


def _completion(prompt: Any, completion: Any, record: Mapping[str, Any], where: str) -> Completion | Conversation:
    if isinstance(prompt, list):
        before = messages_of(prompt, where)[0]
        system, tools = _system_of(record), tools_of(record, where)
        completion = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
        return conversation(completion, where, system=system, tools=tools, before=before)
    return Completion(of_type(str, prompt, "prompt", where), of_type(str, completion, "completion", where))


def _instruction(record: Mapping[str, Any], where: str) -> Instruction:
    texts = [of_type(str, record.get(name, ""), name, where) for name in ("instruction", "input", "output")]
    history = of_type(list, record.get("history", []), "history", where)
    if not all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn) for turn in history
    ):
        raise DataError(
            "history has the wrong form", where=where, expected="[[question, answer], …]", received=repr(history)[:200]
        )
    system = _system_of(record) or None
    return Instruction(*texts, system=system, history=tuple((question, answer) for question, answer in history))


def _pair(record: Mapping[str, Any], where: str) -> Pair:
    """What comes before the two answers stands apart (as text, messages or an instruction), or is how both begin."""
    tools, answers = tools_of(record, where), [record["chosen"], record["rejected"]]
    if "instruction" in record:
        before = _instruction({**record, "output": ""}, where).conversation().messages[:-1]
    elif isinstance(prompt := record.get("messages", record.get("conversations", record.get("prompt"))), list):
        before = conversation(prompt, where, system=record.get("system")).messages
    elif all(isinstance(answer, str) for answer in answers):
        prompt = of_type(str, record.get("prompt", ""), "prompt", where)
        if not prompt:
            chosen, rejected = answers
            prompt = chosen[: chosen.rfind("\n", 0, _num_same(chosen, rejected)) + 1]  # whole lines
            answers = [answer[len(prompt) :] for answer in answers]
        return Pair(*(Completion(prompt, answer) for answer in answers))
    else:
        before = [] if prompt is None else [{"role": "user", "content": of_type(str, prompt, "prompt", where)}]
    ends = [_ending(answer, where) for answer in answers]
    if not before and all(len(end) > 1 for end in ends):  # both tell the whole conversation
        num_same = _num_same(*ends)
        before, ends = ends[0][:num_same], [end[num_same:] for end in ends]
        if any(end and end[0].get("role") == "user" for end in ends):
            raise DataError(
                "the preferred and the rejected answer are to different questions",
                where=where,
                expected="conversations that are the same up to an answer",
                received=" and ".join(shown(end[0].get("content")) if end else "nothing" for end in ends),
            )
    elif before and all(end[: len(before)] == before for end in ends):  # told again
        ends = [end[len(before) :] for end in ends]
    return Pair(*(Conversation([*before, *end], tools, len(before)) for end in ends))


def _num_same(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How long the two begin alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _ending(answer: Any, where: str) -> list[Message]:
    if isinstance(answer, str):
        return [{"role": "assistant", "content": answer}]
    return messages_of(answer if isinstance(answer, list) else [answer], where)[0]
