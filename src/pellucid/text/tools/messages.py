"""Conversations with tool calls as chat templates take them.

APIs write arguments as JSON text, leave content null where an assistant only calls, leave ids out, and send text in
parts; templates want arguments as an object, content that is there, and ids of their own form.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pellucid.base.errors import TemplateError
from pellucid.text.backend import Backend
from pellucid.text.chat import ChatOptions, RenderedChat, render_chats
from pellucid.text.tools.asked import Asked
from pellucid.text.tools.format import ToolFormat
from pellucid.text.tools.mistral import Mistral, mistral_id


def render_with_tools(
    tokenizer: Backend, form: ToolFormat, messages: Sequence[Mapping[str, Any]], asked: Asked, options: ChatOptions
) -> RenderedChat:
    """The conversation as its template writes it; ``options.tools`` are those of ``asked``, as the API was given them.

    Arguments are given to the template as an object, or as text where it joins them to text. Raises: TemplateError.
    """
    error: TemplateError | None = None
    for variant in _variants(messages, form, asked):
        plain = options if variant.native else replace(options, tools=None)
        try:
            return render_chats(tokenizer, variant.messages, plain)[0][0]
        except TemplateError as failed:
            error = error or failed
    assert error is not None
    raise error


@dataclass(frozen=True)
class _Variant:
    messages: list[dict[str, Any]]
    native: bool  # the template writes the tools itself


def _variants(messages: Sequence[Mapping[str, Any]], form: ToolFormat, asked: Asked) -> Iterator[_Variant]:
    """The conversation as templates may take it, the likeliest way first."""
    given = prepared(messages, form)
    said = form.instructions(asked) if asked.tools else None
    if said is not None:
        yield _Variant(with_instructions(given, said), False)
        yield _Variant(with_instructions(given, said, system=False), False)
        return
    yield _Variant(given, True)
    if any(message.get("tool_calls") for message in given):
        yield _Variant(prepared(messages, form, arguments_as_text=True), True)


def prepared(
    messages: Sequence[Mapping[str, Any]], form: ToolFormat | None = None, *, arguments_as_text: bool = False
) -> list[dict[str, Any]]:
    """The messages with what templates need filled in; the given ones are left alone."""
    shorten = isinstance(form, Mistral)
    ids = _Ids(shorten=shorten)
    out: list[dict[str, Any]] = []
    for message in messages:
        one = {key: value for key, value in message.items() if value is not None}
        one["content"] = _text_of(one.get("content"))
        if one.get("role") == "assistant" and one.get("tool_calls"):
            one["tool_calls"] = [_call(call, ids, arguments_as_text) for call in one["tool_calls"]]
        else:
            one.pop("tool_calls", None)
        if one.get("role") == "tool":
            one["tool_call_id"] = ids.of_result(one.get("tool_call_id"))
            if "name" not in one and (name := ids.names.get(one["tool_call_id"])):
                one["name"] = name
        out.append(one)
    return out


class _Ids:
    """Ids of calls, and which of them a tool's result answers: by its id, or the next in order where it has none."""

    def __init__(self, *, shorten: bool) -> None:
        self._shorten, self._count = shorten, 0
        self._open: list[str] = []
        self.names: dict[str, str] = {}

    def of_call(self, given: Any, name: Any) -> str:
        self._count += 1
        own = self._form(given if isinstance(given, str) and given else f"call_{self._count}")
        self._open.append(own)
        self.names[own] = str(name)
        return own

    def of_result(self, given: Any) -> str:
        own = self._form(given) if isinstance(given, str) and given else (self._open or ["call_1"])[0]
        if own in self._open:
            self._open.remove(own)
        return self._form(own)

    def _form(self, own: str) -> str:
        return mistral_id(own) if self._shorten else own


def _call(call: Any, ids: _Ids, as_text: bool) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise TemplateError("a tool call must be an object", where="messages", received=type(call).__name__)
    inner = call.get("function") if isinstance(call.get("function"), Mapping) else call
    assert isinstance(inner, Mapping)
    arguments = inner.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):  # what a model wrote, broken off: the template gets the text
            arguments = json.loads(arguments or "{}")
    arguments = {} if arguments is None else arguments
    if as_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    name = inner.get("name")
    kept = {key: value for key, value in inner.items() if key not in ("id", "type") and value is not None}
    return {
        "id": ids.of_call(call.get("id"), name),
        "type": "function",
        "function": {**kept, "name": name, "arguments": arguments},
    }


def _text_of(content: Any) -> Any:
    """Parts that are all text, as one; nothing is an empty text."""
    if content is None:
        return ""
    if isinstance(content, (list, tuple)) and all(
        isinstance(part, Mapping) and part.get("type") in ("text", "input_text", "output_text") for part in content
    ):
        return "".join(str(part.get("text", "")) for part in content)
    return content


def with_instructions(messages: Sequence[Mapping[str, Any]], said: str, *, system: bool = True) -> list[dict[str, Any]]:
    """The messages, with what the model must know of its tools in the system message (else the first user's), and calls
    and results as text: for templates that know of neither.
    """
    out: list[dict[str, Any]] = []
    for message in messages:
        one: dict[str, Any] = dict(message)
        if calls := one.pop("tool_calls", None):
            lines = [
                json.dumps(
                    {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}, ensure_ascii=False
                )
                for call in calls
            ]
            one["content"] = "\n".join([*([one["content"]] if one["content"] else []), *lines])
        if one.get("role") == "tool":
            one = {"role": "user", "content": f"Result of {one.get('name', 'the function')}:\n{one['content']}"}
            if out and out[-1].get("result"):
                out[-1]["content"] += "\n\n" + one["content"]
                continue
            one["result"] = True
        out.append(one)
    for one in out:
        one.pop("result", None)
    if out and out[0].get("role") in ("system", "developer"):
        said = f"{out[0]['content']}\n\n{said}".strip()
        out = out[1:]
    first = next((one for one in out if one.get("role") == "user"), None)
    if system or first is None:
        return [{"role": "system", "content": said}, *out]
    first["content"] = f"{said}\n\n{first['content']}"
    return out
