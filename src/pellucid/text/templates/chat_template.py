"""Chat templates: a conversation written out as the text that its model was trained on.

The text is, byte for byte, what transformers' ``apply_chat_template(..., tokenize=False)`` writes. A template comes
with a checkpoint and is a program by strangers: it runs in a sandbox with a budget (``sandbox``), and what it
is given is plain data, which it can print but which is never evaluated.

Source: transformers/utils/chat_template_utils.py, ``render_jinja_template``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.base.errors import TemplateError

# Names under which a message's reasoning is passed; templates read the first, gpt-oss's the second.
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


@dataclass(frozen=True)
class Rendered:
    """``text``, and the ``(start, end)`` of the characters in it that ``{% generation %}`` blocks wrote, in order."""

    text: str
    assistant_spans: list[tuple[int, int]]


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool | str = False,
    special_tokens: Mapping[str, str] | None = None,
    **template_kwargs: Any,
) -> Rendered:
    """The conversation as the template writes it.

    ``tools`` are JSON schemas, or functions with type hints and Google-style docstrings. ``add_generation_prompt`` ends
    the text where the assistant's answer begins; ``continue_final_message`` ends it inside the last message, so that
    the model goes on with it (a string names the field to continue, ``"content"`` by default). ``special_tokens``
    (``bos_token`` …) and ``template_kwargs`` (``enable_thinking`` …) are variables of the template.

    Raises: TemplateError, naming the template's line, where the template fails, refuses the conversation
    (``raise_exception``), or exceeds its budget of steps, memory or time.
    """
    from pellucid.text.templates import sandbox  # imports jinja2, which --help can do without

    if add_generation_prompt and continue_final_message:
        raise TemplateError(
            "add_generation_prompt and continue_final_message exclude each other", remedy="ask for one of them"
        )
    try:
        chat = [_with_reasoning(_checked(plain(message), "messages")) for message in messages]
        variables = plain({**(special_tokens or {}), **template_kwargs})
        variables["tools"] = None if tools is None else [_schema(tool) for tool in tools]
        variables["documents"] = (
            None if documents is None else [_checked(plain(document), "documents") for document in documents]
        )
    except RecursionError:
        raise TemplateError("the conversation, tools or documents are nested too deeply") from None
    variables |= {"messages": chat, "add_generation_prompt": add_generation_prompt}
    ending = _tag_final_message(template, chat, continue_final_message) if continue_final_message else None
    text, spans = sandbox.run(template, variables)
    if ending is not None:
        text = _cut_at_tag(text, ending)
    return Rendered(text, [(start, min(end, len(text))) for start, end in spans if start < len(text)])


def plain(value: Any) -> Any:
    """The value rebuilt of plain JSON types: templates see no object with methods of its own.

    Mappings become dicts, dataclasses and pydantic models too; anything else (an image, an array) becomes a placeholder
    that names its type, since templates ask only whether such a thing is there.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):  # subclasses of these (enums, numpy scalars) may carry methods
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value] if isinstance(value, list) else tuple(plain(item) for item in value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if callable(dump := getattr(value, "model_dump", None)):
        return plain(dump())
    return f"<{type(value).__name__}>"


def _checked(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TemplateError(
            f"{what} must be a list of mappings",
            received=type(value).__name__,
            remedy='write {"role": …, "content": …} for each',
        )
    return value


def _schema(tool: Any) -> Any:
    if isinstance(tool, Mapping) or not callable(tool):
        return _checked(plain(tool), "tools")
    from pellucid.text.templates.tool_schema import tool_schema

    return tool_schema(tool)


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its reasoning, if any, under the names that templates read."""
    reasoning = next((message[key] for key in REASONING_FIELDS if message.get(key) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


# -- Continuing the final message: it is tagged, rendered, and the text cut off at the tag.


def _tag_final_message(template: str, chat: list[dict[str, Any]], field: bool | str) -> str:
    """Tag the end of the final message; returns what it said."""
    name = field if isinstance(field, str) else "content"
    if not chat or chat[-1].get(name) is None:
        raise TemplateError(f'there is no final message with "{name}" to continue')
    final = chat[-1]
    said = final[name]
    fields = [other for other in REASONING_FIELDS if final.get(other) == said] if name in REASONING_FIELDS else [name]
    if not any(other in template for other in fields):
        raise TemplateError(f'the chat template does not write "{name}", so it cannot be continued')
    if isinstance(said, (list, tuple)):
        block = next((block for block in reversed(said) if "text" in block), None)
        if block is None:
            raise TemplateError("the final message holds no text to continue")
        said = block["text"]
        block["text"] = said + CONTINUE_TAG
        return said
    for other in fields:
        final[other] = said + CONTINUE_TAG
    return said


def _cut_at_tag(text: str, said: str) -> str:
    tag = CONTINUE_TAG.strip()
    if said.strip() not in text or tag not in text:
        raise TemplateError(
            "the chat template leaves out part of the final message, so it cannot be continued",
            received=said.strip()[:200],
        )
    end = text.rindex(tag)
    if text.startswith(CONTINUE_TAG, end):
        return text[:end]
    return text[:end].rstrip()  # the template strips messages, and the message ended in spaces
