"""JSON Schema, as much of it as describes a request: what /openapi.json promises is what is checked, by one table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pellucid.serve.http.errors import ApiError, invalid

Schema = Mapping[str, Any]

_TYPES: dict[str, Any] = {
    "string": str,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def check(value: Any, schema: Schema, where: str = "") -> None:
    """Raises: ApiError 400 whose ``param`` is the place, as OpenAI writes it (``messages[0].content``)."""
    if "anyOf" in schema:
        return _any_of(value, schema["anyOf"], where)
    if "const" in schema and value != schema["const"]:
        raise _wrong(where, repr(schema["const"]), value)
    if "enum" in schema and not any(value == one and type(value) is type(one) for one in schema["enum"]):
        raise _wrong(where, "one of " + ", ".join(map(repr, schema["enum"])), value)
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_is(value, kind) for kind in kinds):
            raise _wrong(where, " or ".join(kinds), value)
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        _check_number(value, schema, where)
    elif isinstance(value, str):
        _check_size(len(value), schema, "minLength", "maxLength", "characters", where)
    elif isinstance(value, list):
        _check_size(len(value), schema, "minItems", "maxItems", "items", where)
        if "items" in schema:
            for place, one in enumerate(value):
                check(one, schema["items"], f"{where}[{place}]")
    elif isinstance(value, dict):
        _check_object(value, schema, where)
    return None


def _check_number(value: float, schema: Schema, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(where, "a finite number", value)
    low, above, high = schema.get("minimum"), schema.get("exclusiveMinimum"), schema.get("maximum")
    if (low is not None and value < low) or (above is not None and value <= above):
        raise _wrong(where, f"at least {low}" if low is not None else f"more than {above}", value)
    if high is not None and value > high:
        raise _wrong(where, f"at most {high}", value)


def _check_size(size: int, schema: Schema, low: str, high: str, what: str, where: str) -> None:
    if size < schema.get(low, 0):
        raise invalid(f"{where}: expected at least {schema[low]} {what}, received {size}", where)
    if size > schema.get(high, size):
        raise invalid(f"{where}: expected at most {schema[high]} {what}, received {size}", where)


def _check_object(value: dict[str, Any], schema: Schema, where: str) -> None:
    properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name in schema.get("required", ()):
        if name not in value:
            place = f"{where}.{name}" if where else name
            raise ApiError(
                400, f"Missing required parameter: '{place}'.", param=place, code="missing_required_parameter"
            )
    for name, one in value.items():
        place = f"{where}.{name}" if where else name
        if name in properties:
            check(one, properties[name], place)
        elif more is False:
            close = get_close_matches(name, properties, 1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise ApiError(400, f"Unknown parameter: '{place}'.{hint}", param=place, code="unknown_parameter")
        elif more is not True:
            check(one, more, place)


def _any_of(value: Any, schemas: list[Schema], where: str) -> None:
    """One that fits; else the error of the one that came nearest, which is the one that fails deepest."""
    errors: list[ApiError] = []
    for schema in schemas:
        try:
            return check(value, schema, where)
        except ApiError as error:
            errors.append(error)
    deepest = max(errors, key=lambda error: len(error.param or ""))
    if len(deepest.param or "") > len(where):
        raise deepest
    expected = " or ".join(dict.fromkeys(_name(schema) for schema in schemas))
    raise errors[0] if len(errors) == 1 else _wrong(where, expected, value)


def _name(schema: Schema) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(map(repr, schema["enum"]))
    kind = schema.get("type", "const" in schema and repr(schema["const"])) or "anything"
    return f"array of {_name(schema['items'])}" if kind == "array" and "items" in schema else str(kind)


def _is(value: Any, kind: str) -> bool:
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, _TYPES[kind])


def _wrong(where: str, expected: str, received: Any) -> ApiError:
    shown = repr(received)
    shown = shown if len(shown) <= 80 else f"{shown[:80]}…"
    return ApiError(
        400, f"{where or 'body'}: expected {expected}, received {shown}", param=where or None, code="invalid_value"
    )


# --- the words in which tables of fields are written ---


def nullable(schema: Schema) -> Schema:
    """The schema, or null, which clients send for what they leave open."""
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def number(low: float | None = None, high: float | None = None, **more: Any) -> Schema:
    bounds = {name: bound for name, bound in (("minimum", low), ("maximum", high)) if bound is not None}
    return {"type": "number", **bounds, **more}


def whole(low: int | None = None, high: int | None = None, **more: Any) -> Schema:
    return {**number(low, high, **more), "type": "integer"}


def text(**more: Any) -> Schema:
    return {"type": "string", **more}


def flag(**more: Any) -> Schema:
    return {"type": "boolean", **more}


def one_of(*values: Any, **more: Any) -> Schema:
    return {"enum": list(values), **more}


def list_of(schema: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": schema, **more}


def any_of(*schemas: Schema, **more: Any) -> Schema:
    return {"anyOf": list(schemas), **more}


def record(properties: Mapping[str, Schema], *required: str, more: bool | Schema = True) -> Schema:
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    if required:
        schema["required"] = list(required)
    if more is not True:
        schema["additionalProperties"] = more
    return schema


ANYTHING: Schema = {}
