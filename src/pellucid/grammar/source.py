"""``Grammar``: what an answer may be, as llguidance reads it, checked where it is made."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

from pellucid.base.errors import RequestError
from pellucid.grammar.vocabulary import library
from pellucid.text.tools.lark import json_value

ANY_OBJECT = {"type": "object"}
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
# Keywords of JSON Schema by which values are judged and to which no token mask can be held, or not yet.
REMEDIES = {
    "oneOf": "anyOf, or alternatives that a constant property tells apart",
    "not": "say what it is, not what it is not",
    "uniqueItems": "leave it out, and check the answer",
    "contains": "prefixItems, or items",
    "if": "anyOf of both cases",
    "$ref": "references within the schema (#/$defs/…)",
}


@dataclass(frozen=True)
class Grammar:
    """``text`` is Lark as llguidance has it, ``what`` names its kind in messages (``schema``, ``regex`` …).

    ``rule`` is the same as a part of a larger grammar.
    """

    text: str
    what: str = "grammar"

    @property
    def rule(self) -> str:
        alone = re.fullmatch(r"start: (.*)", self.text)  # a rule of one line, as schemas and expressions are
        return alone[1] if alone else f"%lark {{\n{self.text}\n}}"


def schema_grammar(schema: Any, *, what: str = "schema") -> Grammar:
    """JSON of this schema (draft 2020-12, what llguidance has of it): a dict, JSON text, a bool, or a pydantic model.

    Properties come in the schema's order. Raises: RequestError for what is no schema, what no value can satisfy, and
    keywords that cannot be held to, by name.
    """
    if callable(make := getattr(schema, "model_json_schema", None)):
        schema = make()
    if isinstance(schema, (str, bytes)):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise RequestError(f"the {what} is no JSON: {error}") from None
    if isinstance(schema, bool):
        if not schema:
            raise RequestError(f"the {what} is false: no value satisfies it")
        schema = {}
    if not isinstance(schema, Mapping):
        raise RequestError(f"the {what} is no JSON schema", expected="an object", received=type(schema).__name__)
    try:
        text = f"start: {json_value(_with_whole_counts(schema))}"
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"the {what} is no JSON: {error}") from None
    return checked(Grammar(text, what))


def _with_whole_counts(value: Any) -> Any:
    """2.0 items are 2, which JSON Schema allows to be written so and llguidance does not."""
    if isinstance(value, Mapping):
        return {
            key: int(one) if key in COUNTS and isinstance(one, float) and one.is_integer() else _with_whole_counts(one)
            for key, one in value.items()
        }
    return [_with_whole_counts(one) for one in value] if isinstance(value, (list, tuple)) else value


def regex_grammar(regex: str) -> Grammar:
    """A text that the regular expression matches whole (Rust's syntax: no look-around, no back-references). ``\\d`` is
    a digit 0 to 9.

    Raises: RequestError.
    """
    if not isinstance(regex, str):
        raise RequestError("a regex must be a string", received=type(regex).__name__)
    library()
    from llguidance import regex_to_lark

    return checked(Grammar(f"start: /{regex_to_lark(regex, 'd')}/", "regex"))


def grammar_of(text: str) -> Grammar:
    """A text that the grammar derives: Lark, from its rule ``start``, or GBNF (llama.cpp's), from ``root``.

    Terminals are lexemes, of which the longest is taken: where a rule ends in optional white space and a line end must
    follow, the white space takes the line end, too (llama.cpp, which goes by characters, would find the other way).
    Raises: RequestError.
    """
    if not isinstance(text, str):
        raise RequestError("a grammar must be a string", received=type(text).__name__)
    library()
    if "::=" in text:
        from llguidance.gbnf_to_lark import any_to_lark

        try:
            text = any_to_lark(text)
        except Exception as error:
            raise RequestError(f"the grammar is no GBNF: {error}") from None
    return checked(Grammar(text, "grammar"))


def checked(grammar: Grammar) -> Grammar:
    """The grammar, if it is one. Raises: RequestError with what llguidance says of it."""
    if (said := _fault(grammar.text)) is not None:
        refuse(grammar, said)
    return grammar


@lru_cache(128)
def _fault(text: str) -> str | None:
    """What is wrong with a grammar. An agent sends the same tools with every turn."""
    failed, said = library().LLMatcher.validate_grammar_with_warnings(text)
    return said[0] if failed else None


def refuse(grammar: Grammar, said: str) -> NoReturn:
    """Raises: RequestError."""
    if grammar.what not in ("regex", "grammar"):  # made here: where in its text it fails says nothing to the reader
        said = re.sub(r"^at \d+\(\d+\): failed to compile JSON schema: ", "", said).split("\n   1 | ")[0]
    said = said.strip()
    if said.startswith("Unimplemented keys: "):
        keys = json.loads(said.removeprefix("Unimplemented keys: "))
        remedy = next((f"{key}: {REMEDIES[key]}" for key in keys if key in REMEDIES), None)
        raise RequestError(
            f"the {grammar.what} has keywords that an answer cannot be held to: {', '.join(keys)}", remedy=remedy
        )
    remedy = next((f"{key}: {REMEDIES[key]}" for key in ("oneOf", "$ref") if key in said), None)
    if "not present in a registry" in said:
        said, remedy = said.split(" and retrieving")[0], f"$ref: {REMEDIES['$ref']}"
    raise RequestError(f"the {grammar.what} cannot be used: {said}", remedy=remedy)
