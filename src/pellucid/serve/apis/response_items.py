"""Items of OpenAI's Responses API: what comes in becomes messages, what goes out is made of blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.serve.http.errors import invalid
from pellucid.serve.work.blocks import Block

_TEXTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")


def messages_of(items: str | Sequence[Mapping[str, Any]], instructions: str | None) -> list[dict[str, Any]]:
    """The conversation as templates know it: calls belong to one message of the assistant. Raises: ApiError."""
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    if isinstance(items, str):
        return [*messages, {"role": "user", "content": items}]
    for place, item in enumerate(items):
        where = f"input[{place}]"
        kind = item.get("type", "message")
        if kind == "message":
            role = _string(item, "role", where)
            messages.append({"role": role, "content": _content(item.get("content"), where)})
        elif kind == "reasoning":
            thoughts = "".join(_part(part, where) for part in item.get("content") or [])
            if thoughts:
                messages.append({"role": "assistant", "content": "", "reasoning_content": thoughts})
        elif kind == "function_call":
            function = {"name": _string(item, "name", where), "arguments": _string(item, "arguments", where)}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            content = _content(item.get("output"), where)
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        else:
            raise invalid(f"{where}: an item of type {str(kind)[:80]!r} cannot be read here", where)
    return messages


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(f"{where}: expected a text or a list of parts, received {type(content).__name__}", where)
    return "".join(_part(part, where) for part in content)


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "refusal":
        return _string(part, "refusal", where)
    if kind not in _TEXTS:
        raise invalid(f"{where}: a part of type {str(kind)[:80]!r} cannot be read here; only text can", where)
    return _string(part, "text", where)


def _string(item: Mapping[str, Any], name: str, where: str) -> str:
    if not isinstance(value := item.get(name), str):
        raise invalid(f"{where}: needs {name}, a string", f"{where}.{name}")
    return value


def item_json(
    block: Block, id: str, status: str, logprobs: list[dict[str, Any]], *, empty: bool = False
) -> dict[str, Any]:
    """A block as an item of the output; ``empty``: as it begins."""
    if block.kind == "call":
        arguments = "" if empty else block.text
        call = {"call_id": block.id, "name": block.name, "arguments": arguments}
        return {"type": "function_call", "id": id, "status": status, **call}
    content = [] if empty else [part_json(block, logprobs)]
    if block.kind == "reasoning":
        return {"type": "reasoning", "id": id, "status": status, "summary": [], "content": content}
    return {"type": "message", "id": id, "status": status, "role": "assistant", "content": content}


def part_json(block: Block, logprobs: list[dict[str, Any]], *, empty: bool = False) -> dict[str, Any]:
    text = "" if empty else block.text
    if block.kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
