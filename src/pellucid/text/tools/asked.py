"""What a request asks of an answer's form: its tools, which of them must be called, and a schema for what it says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pellucid.base.errors import RequestError

NAME = re.compile(r"[A-Za-z0-9_.:-]{1,256}")
CHOICES = ("none", "auto", "required")


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A function that the model may call. ``parameters``: a JSON schema of an object."""

    name: str
    parameters: Mapping[str, Any]
    description: str | None = None
    strict: bool = False  # a keyword of the schema that cannot be held to is an error; else it is passed over


@dataclass(frozen=True, kw_only=True)
class Asked:
    """``answer``: the Lark rule of what is said (``Grammar.rule``); None: any text."""

    tools: tuple[Tool, ...] = ()
    choice: str = "auto"  # none, auto, or required
    parallel: bool = True  # several calls in an answer
    answer: str | None = None

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tool.name for tool in self.tools)

    @property
    def calls(self) -> bool:
        """Whether the answer may call tools."""
        return bool(self.tools) and self.choice != "none"

    def tool(self, name: str) -> Tool | None:
        return next((tool for tool in self.tools if tool.name == name), None)


def asked(
    tools: Sequence[Any] | None = None,
    tool_choice: Any = None,
    parallel_tool_calls: bool | None = None,
    answer: str | None = None,
) -> Asked:
    """From OpenAI's fields, chat completions' or responses' (whose tools are flat).

    ``tool_choice``: ``none``, ``auto``, ``required``, a tool by name, or OpenAI's ``allowed_tools``. Raises:
    RequestError naming the field.
    """
    read = tuple(_tool(tool, f"tools[{place}]") for place, tool in enumerate(tools or ()))
    names = [tool.name for tool in read]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RequestError("two tools have one name", where="tools", received=repr(twice))
    whole = Asked(tools=read, parallel=parallel_tool_calls is not False, answer=answer)
    return _chosen(whole, tool_choice)


def _chosen(whole: Asked, choice: Any) -> Asked:
    if choice is None:
        return replace(whole, choice="auto" if whole.tools else "none")
    if isinstance(choice, str) and choice in CHOICES:
        if choice == "required" and not whole.tools:
            raise RequestError("a tool must be called and there is none", where="tool_choice", remedy="give tools")
        return replace(whole, choice=choice if whole.tools else "none")
    if isinstance(choice, Mapping):
        if choice.get("type") == "allowed_tools":
            allowed = choice.get("allowed_tools", choice)
            only = [_name_of(one) for one in allowed.get("tools") or ()]
            return _chosen(_only(whole, only), allowed.get("mode", "auto"))
        if (name := _name_of(choice)) is not None:
            return replace(_only(whole, [name]), choice="required", parallel=False)
    raise RequestError(
        "tool_choice is not understood",
        expected='"none", "auto", "required" or {"type": "function", "function": {"name": …}}',
        received=repr(choice)[:80],
    )


def _only(whole: Asked, names: Sequence[Any]) -> Asked:
    if unknown := next((name for name in names if name not in whole.names), None):
        there = ", ".join(sorted(whole.names)) or "none"
        raise RequestError(f"there is no tool {unknown!r}", where="tool_choice", expected=f"one of tools ({there})")
    return replace(whole, tools=tuple(tool for tool in whole.tools if tool.name in names))


def _name_of(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return None
    inner = value.get("function")
    return inner.get("name") if isinstance(inner, Mapping) else value.get("name")


def _tool(value: Any, where: str) -> Tool:
    if not isinstance(value, Mapping):
        raise RequestError("a tool must be an object", where=where, received=type(value).__name__)
    kind = value.get("type", "function")
    if kind != "function":
        raise RequestError("only functions can be called", where=where, expected='"function"', received=repr(kind)[:80])
    inner = value.get("function", value)
    if not isinstance(inner, Mapping):
        raise RequestError("function must be an object", where=where, received=type(inner).__name__)
    name, parameters = inner.get("name"), inner.get("parameters")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        expected = "letters, digits, _ . : and -"
        raise RequestError("a function needs a name", where=where, expected=expected, received=repr(name)[:80])
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        expected = "a JSON schema of an object"
        raise RequestError(f"parameters of {name} are none", where=where, expected=expected, received=repr(parameters))
    schema = {"type": "object", **parameters}
    if "properties" in schema and "patternProperties" not in schema:
        schema.setdefault("additionalProperties", False)  # a function takes the arguments that it names
    description = inner.get("description")
    return Tool(
        name=name,
        parameters=schema,
        description=description if isinstance(description, str) else None,
        strict=inner.get("strict") is True,
    )
