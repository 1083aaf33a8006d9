"""A Python function described to a model: its type hints and Google-style docstring as a JSON schema.

Source: transformers/utils/chat_template_utils.py, ``get_json_schema``, whose rules these are.
"""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Callable
from enum import Enum
from typing import Any, Literal, Union

from pellucid.base.errors import TemplateError

_SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
_TYPES: dict[Any, dict[str, Any]] = {kind: {"type": name} for kind, name in _SCALARS.items()}
_TYPES |= {list: {"type": "array"}, tuple: {"type": "array"}, dict: {"type": "object"}, Any: {}}

_DESCRIPTION = re.compile(r"^(.*?)[\n\s]*(Args:|Returns:|Raises:|\Z)", re.DOTALL)
_ARGS = re.compile(r"\n\s*Args:\n(.*?)[\n\s]*(Returns:|Raises:|\Z)", re.DOTALL)
_RETURNS = re.compile(r"\n\s*Returns:\n\s*(.*?)[\n\s]*(Raises:|\Z)", re.DOTALL)
_ARG = re.compile(
    r"""(?:^|\n)([ \t]*)(\w+):\s*         # the indentation and the name
        (.*?)\s*                          # the description, which may go on over lines
        (?=\n(?!\1[ \t])[ \t]*\w+:|\Z)    # up to the next name that is not indented deeper""",
    re.DOTALL | re.VERBOSE,
)
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE)


def tool_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """``{"type": "function", "function": {"name", "description", "parameters"[, "return"]}}``

    Every parameter needs a type hint and a line in the docstring's ``Args:``; ``(choices: ["a", "b"])`` at the line's
    end becomes an ``enum``. Raises: TemplateError that names what is missing.
    """
    name = getattr(function, "__name__", "operation")
    docstring = (inspect.getdoc(function) or "").strip()
    if not docstring:
        raise _error(name, "it has no docstring", "describe the function, and each argument under 'Args:'")
    parameters = _parameters(function, name)
    returned = parameters["properties"].pop("return", None)
    described = _described_args(docstring)
    for argument, schema in parameters["properties"].items():
        if argument not in described:
            raise _error(
                name, f"its docstring does not describe the argument {argument!r}", f"add '{argument}: …' under 'Args:'"
            )
        description = described[argument]
        if choices := _CHOICES.search(description):
            schema["enum"] = [
                choice.strip() if isinstance(choice, str) else choice for choice in _choices(name, choices.group(1))
            ]
            description = description[: choices.start()].strip()
        schema["description"] = description
    main = _DESCRIPTION.search(docstring)
    tool = {"name": name, "description": main.group(1).strip() if main else None, "parameters": parameters}
    if returned is not None:
        if match := _RETURNS.search(docstring):
            returned["description"] = match.group(1).strip()
        tool["return"] = returned
    return {"type": "function", "function": tool}


def _error(name: str, what: str, remedy: str) -> TemplateError:
    return TemplateError(
        f"{name!r} cannot be described to the model: {what}", where="tools", remedy=f"{remedy}, or pass a JSON schema"
    )


def _choices(name: str, text: str) -> list[Any]:
    try:
        return json.loads(text)
    except ValueError:
        raise _error(name, f"its choices are not JSON: {text}", 'write (choices: ["a", "b"])') from None


def _described_args(docstring: str) -> dict[str, str]:
    """Argument name -> its description on one line."""
    section = _ARGS.search(docstring)
    if section is None:
        return {}
    lines = "\n".join(line for line in section.group(1).split("\n") if line.strip())
    return {name: re.sub(r"\s*\n+\s*", " ", text.strip()) for _, name, text in _ARG.findall(lines)}


def _parameters(function: Callable[..., Any], name: str) -> dict[str, Any]:
    hints = typing.get_type_hints(function)
    signature = inspect.signature(function).parameters
    receiver = next(iter(signature), None)
    if receiver not in ("self", "cls") or signature[receiver].annotation is not inspect.Parameter.empty:
        receiver = None
    arguments = [parameter for parameter in signature.values() if parameter.name != receiver]
    for parameter in arguments:
        if parameter.annotation is inspect.Parameter.empty:
            raise _error(name, f"its argument {parameter.name!r} has no type hint", "add one")
    properties = {}
    for parameter, hint in hints.items():
        try:
            properties[parameter] = _schema(hint)
        except TypeError as error:
            if parameter != "return":  # the model writes arguments, not results: these may be of any type
                raise _error(
                    name,
                    f"the type of {parameter!r}, {error}, has no JSON schema",
                    "use str, int, float, bool, list, dict, Literal …",
                ) from None
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required := [parameter.name for parameter in arguments if parameter.default is inspect.Parameter.empty]:
        schema["required"] = required
    return schema


def _schema(hint: Any) -> dict[str, Any]:
    """The JSON schema of a type. Raises: TypeError where there is none."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        if isinstance(hint, type) and issubclass(hint, Enum):
            return _one_of([member.value for member in hint], hint)
        if hint not in _TYPES:
            raise TypeError(hint)
        return dict(_TYPES[hint])
    if origin in (Union, types.UnionType):
        return _union(args)
    if origin is Literal:
        return _one_of(list(args), hint)
    if origin is list:
        return {"type": "array", "items": _schema(args[0])}
    if origin is tuple and len(args) > 1 and ... not in args:
        return {"type": "array", "prefixItems": [_schema(arg) for arg in args]}
    if origin is dict:
        return {"type": "object"} | ({"additionalProperties": _schema(args[1])} if len(args) == 2 else {})
    raise TypeError(hint)


def _one_of(values: list[Any], hint: Any) -> dict[str, Any]:
    if not values or any(type(value) not in _SCALARS for value in values):
        raise TypeError(hint)
    names = list(dict.fromkeys(_SCALARS[type(value)] for value in values))
    return {"type": names[0] if len(names) == 1 else names, "enum": values}


def _union(args: tuple[Any, ...]) -> dict[str, Any]:
    members = [_schema(arg) for arg in args if arg is not type(None)]
    if len(members) == 1:
        schema = members[0]
    elif all(member.keys() == {"type"} and isinstance(member["type"], str) for member in members):
        names = sorted({member["type"] for member in members})
        schema = {"type": names[0] if len(names) == 1 else names}
    else:
        schema = {"anyOf": members}
    return schema | ({"nullable": True} if type(None) in args else {})
