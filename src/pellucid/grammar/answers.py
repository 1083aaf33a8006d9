"""A chat answer's grammar: thoughts free, what is said held to a schema, tool calls to theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.base.errors import PellucidError, RequestError
from pellucid.base.notice import notice
from pellucid.grammar.source import ANY_OBJECT, Grammar, checked, grammar_of, regex_grammar, schema_grammar
from pellucid.text.tools.asked import Asked
from pellucid.text.tools.format import ToolFormat
from pellucid.text.tools.named import arguments_rule


def asked_grammar(schema: Any = None, regex: str | None = None, grammar: str | None = None) -> Grammar | None:
    """The one that is asked for; None for none. Raises: RequestError where there are two, or it is none."""
    asked = {"schema": schema, "regex": regex, "grammar": grammar}
    if len(named := [name for name, value in asked.items() if value is not None]) > 1:
        raise RequestError(f"{' and '.join(named)} exclude each other", remedy="ask for one of them")
    if schema is not None:
        return schema_grammar(schema)
    if regex is not None:
        return regex_grammar(regex)
    return None if grammar is None else grammar_of(grammar)


def response_format_grammar(response_format: Any) -> Grammar | None:
    """OpenAI's ``response_format`` (or the responses API's ``text.format``): text, json_object or json_schema.

    Raises: RequestError naming the field.
    """
    if response_format is None:
        return None
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":  # some servers take a schema with it
        return schema_grammar(response_format.get("schema") or ANY_OBJECT, what="response_format")
    if kind == "json_schema":
        inner = response_format.get("json_schema", response_format)
        schema = inner.get("schema") if isinstance(inner, Mapping) else None
        if schema is None:
            raise RequestError("json_schema needs a schema", where="response_format.json_schema.schema")
        return schema_grammar(schema, what="response_format")
    if kind == "grammar" and isinstance(text := response_format.get("grammar"), str):
        return grammar_of(text)
    expected = '{"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": {"schema": …}}'
    raise RequestError("response_format is not understood", expected=expected, received=repr(response_format)[:80])


def answer_grammar(form: ToolFormat, asked: Asked, prompt: str = "") -> Grammar | None:
    """What an answer in this format may be; None where any text will do.

    A tool's schema that cannot be held to is an error where the tool is ``strict``; else keywords are passed over, or,
    where that is not enough, its arguments are any object, which a notice says. Raises: RequestError.
    """
    if asked.calls:
        asked = replace(asked, tools=tuple(_usable(tool) for tool in asked.tools))
    text = form.grammar(asked, prompt)
    return None if text is None else checked(Grammar(text, "grammar of the answer"))


def _usable(tool: Any) -> Any:
    what = f"schema of the tool {tool.name}"
    try:
        checked(Grammar(f"start: {arguments_rule(tool)}", what))
    except PellucidError as error:
        if tool.strict:
            raise
        notice(f"{error.what}: its arguments are held to no schema")
        return replace(tool, parameters=ANY_OBJECT)
    return tool
