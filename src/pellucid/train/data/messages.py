"""Messages as the formats of the field write them → as chat templates read them: role, content, calls of tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pellucid.base.errors import CheckpointError
from pellucid.base.files import parse_json
from pellucid.train.data.examples import Conversation, Message
from pellucid.train.data.sources import DataError

# ShareGPT's and LLaMA-Factory's names for what everybody else calls otherwise, and OpenAI's of before it had tools.
_ROLES = {"human": "user", "prompter": "user", "observation": "tool", "function_response": "tool", "function": "tool"}
_ROLES |= dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "bot", "chatbot", "ai", "model"), "assistant")
_USUAL = ("system", "user", "assistant", "tool", "developer")
# A turn of two in one object, as Capybara and Belle have it.
_TURNS = (("input", "output"), ("human", "assistant"), ("user", "assistant"), ("question", "answer"))
_TEXTS = ("text", "input_text", "output_text")  # of parts: of chat completions, and of OpenAI's Responses
# Whether a message is learned: OpenAI's and Mistral's word, Axolotl's two, ms-swift's.
_LEARNED = ("weight", "train", "training", "loss")


def conversation(
    values: Any, where: str, *, system: Any = None, tools: Any = None, before: list[Message] | None = None
) -> Conversation:
    """A conversation of messages, after a system message that stands apart, and after others that are not learned."""
    messages, unlearned = messages_of(values, where)
    head = list(before or [])
    if isinstance(system, str) and system:
        head.insert(0, {"role": "system", "content": system})
    num_before = len(head) if before is not None else 0
    return Conversation([*head, *messages], tools, num_before, frozenset(len(head) + place for place in unlearned))


def messages_of(values: Any, where: str) -> tuple[list[Message], frozenset[int]]:
    """Messages with ``role`` and ``content``, whatever the record calls them, and the places of those that are not to
    be learned. Calls of tools have ids, which some templates want.
    """
    messages: list[Message] = []
    unlearned: set[int] = set()
    num_calls = 0
    for value in _single(of_type(list, values, "the list of messages", where)):
        message = _message(value, where)
        if not _is_learned(message, where):
            unlearned.add(len(messages))
        for call in message.get("tool_calls", ()):
            num_calls += 1
            call.setdefault("id", f"call{num_calls:05d}")
        if message["role"] == "tool" and num_calls:
            message.setdefault("tool_call_id", f"call{num_calls:05d}")
        messages.append(message)
    return messages, frozenset(unlearned)


def _single(values: list[Any]) -> Iterator[Any]:
    """Each message, those of a turn of two apart."""
    for value in values:
        turn = next((pair for pair in _TURNS if isinstance(value, Mapping) and {*pair} <= {*value}), None)
        if turn is None or "role" in value or "from" in value:
            yield value
        else:
            yield {"role": "user", "content": value[turn[0]]}
            yield {"role": "assistant", "content": value[turn[1]]}


def _role(role: str) -> str:
    """A role by the name that templates have for it; one that nobody here knows stays as it is."""
    plain = role.strip().casefold()
    return _ROLES.get(plain, plain if plain in _USUAL else role)


def _is_learned(message: Message, where: str) -> bool:
    """Takes the keys that say so from the message: they are none that a template reads. Raises: DataError for a value
    between yes and no, which no loss here can weigh.
    """
    learned = True
    for name in _LEARNED:
        if name in message:
            value = message.pop(name)
            if value not in (0, 1):  # True and False are such, too
                raise DataError(
                    f"a message's {name} says whether it is learned", where=where, expected="0 or 1", received=value
                )
            learned = learned and bool(value)
    return learned


def _message(value: Any, where: str) -> Message:
    expected = '{"role": …, "content": …} or {"from": …, "value": …}'
    if not isinstance(value, Mapping):
        raise DataError("a message must be an object", where=where, expected=expected, received=type(value).__name__)
    role = value.get("role", value.get("from"))
    content = value.get("content", value.get("value"))
    calls = value.get("tool_calls")
    if isinstance(value.get("function_call"), Mapping):  # OpenAI's of before it had tools
        calls = [*(calls or []), value["function_call"]]
    if not isinstance(role, str) or not (isinstance(content, (str, list)) or (content is None and calls)):
        raise DataError(
            "a message lacks its role or content", where=where, expected=expected, received=repr(dict(value))[:200]
        )
    if role == "function_call":
        called = content if isinstance(content, list) else from_json(content, "a function_call", where)
        calls = [_call(call, where) for call in (called if isinstance(called, list) else [called])]
        return {
            **{key: value[key] for key in _LEARNED if key in value},
            "role": "assistant",
            "content": "",
            "tool_calls": calls,
        }
    message = {
        key: part for key, part in value.items() if key not in ("from", "value", "function_call") and part is not None
    }
    message |= {"role": _role(role), "content": _text(content, where)}
    return (
        message
        if not calls
        else {**message, "tool_calls": [_call(call, where) for call in of_type(list, calls, "tool_calls", where)]}
    )


def _text(content: Any, where: str) -> str:
    """A message's content: a text, or a list of parts, all of which must be texts (OpenAI's, one after the other).

    Raises: DataError naming a part that is none.
    """
    if not isinstance(content, list):
        return content or ""
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        text = part.get("text") if isinstance(part, Mapping) and kind in _TEXTS else part
        if not isinstance(text, str):
            raise DataError(
                "a message holds what is no text, and no model here reads it",
                where=where,
                expected='{"type": "text", "text": …}',
                received=str(kind)[:80],
                remedy="leave such records out",
            )
        texts.append(text)
    return "".join(texts)


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
        arguments = from_json(arguments, "a tool call's arguments", where)
    more = {key: part for key, part in call.items() if key not in ("function", "name", "arguments", "type")}
    return {**more, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def tools_of(record: Mapping[str, Any], where: str) -> list[Any] | None:
    """The tools as schemas, ``{"type": "function", "function": {…}}``; they may be given as JSON in a string."""
    tools = record.get("tools")
    if isinstance(tools, str):
        tools = from_json(tools, "tools", where) if tools.strip() else None
    if not tools:
        return None
    listed = of_type(list, tools, "tools", where)
    return [
        {"type": "function", "function": tool} if isinstance(tool, Mapping) and "name" in tool else tool
        for tool in listed
    ]


def of_type(kind: type, value: Any, name: str, where: str) -> Any:
    if not isinstance(value, kind):
        raise DataError(
            f"{name} has the wrong type",
            where=where,
            expected=kind.__name__,
            received=f"{type(value).__name__} {value!r}"[:200],
        )
    return value


def from_json(text: Any, name: str, where: str) -> Any:
    try:
        return parse_json(of_type(str, text, name, where), where)
    except CheckpointError:
        raise DataError(f"{name} must be JSON", where=where, received=text[:200]) from None
