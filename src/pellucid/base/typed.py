"""Values from files, held to the types that the code says they are.

``check_fields`` holds a dataclass to its own annotations, so that a field is described once; ``is_whole`` and
``is_real`` say what a number is: Python's JSON reads ``true`` where a number belongs, NaN, and integers of 400 digits
that no float can hold.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pellucid.base.errors import ConfigError, PellucidError

MAX_WHOLE = 2**63 - 1
Test = Callable[[Any], bool]
Made = TypeVar("Made")


def is_whole(value: object) -> bool:
    """A whole number that fits in 64 bits; True and 3.0 are none."""
    return isinstance(value, int) and not isinstance(value, bool) and -MAX_WHOLE <= value <= MAX_WHOLE


def is_real(value: object) -> bool:
    """A number that a float can hold: no NaN, no infinity, nothing beyond 1.8e308; True is none."""
    limit = sys.float_info.max
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -limit <= value <= limit


def shown(value: object, most: int = 80) -> str:
    """The value for a message: short, whatever it is. (Python refuses to print whole numbers of 5,000 digits.)"""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to be shown"
    return text if len(text) <= most else f"{text[:most]} …"


def scalar(
    values: Mapping[str, Any],
    key: str,
    kind: type,
    default: Any = None,
    *,
    where: object,
    error: type[PellucidError] = ConfigError,
) -> Any:
    """A value that must be a single one of a type (int, float, bool, str) where it is there at all; else ``default``.

    Numbers of numpy's count as Python's; an array does not, however short. Raises: ``error`` naming the key.
    """
    value = values.get(key)
    if value is None:
        return default
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    test, words = _test(kind)
    if not test(value):
        raise error(f"{key} is not what it must be", where=where, expected=words, received=shown(value))
    return value


def check_fields(described: Any, where: object, error: type[PellucidError] = ConfigError) -> None:
    """Hold a dataclass's values to the annotations of its fields; a whole number in a float's place becomes one, so
    that none is later too large for whoever takes it. Raises: ``error`` naming the first that is not what it must be.
    """
    for name, test, words in _tests(type(described)):
        value = getattr(described, name)
        if test is is_real and isinstance(value, int) and is_real(value):
            object.__setattr__(described, name, float(value))  # the class may be frozen; it is being made
        if not test(value):
            raise error(
                f"{name} is not what it must be",
                where=where,
                expected=words,
                received=shown(value),
                remedy="the file may be damaged, or of a kind that this version does not know",
            )


def from_object(kind: type[Made], values: object, where: object, error: type[PellucidError] = ConfigError) -> Made:
    """A dataclass from an object of a file: its fields, no others, each as it is annotated. Raises: ``error``."""
    names = {field.name for field in fields(kind)}  # pyright: ignore[reportArgumentType]
    if not isinstance(values, dict) or not values.keys() <= names:
        raise error(
            f"not what describes a {kind.__name__}",
            where=where,
            expected=", ".join(sorted(names)),
            received=shown(values),
        )
    try:
        made = kind(**values)
    except TypeError:
        raise error(f"a {kind.__name__} lacks some of its fields", where=where, received=shown(values)) from None
    check_fields(made, where, error)
    return made


@cache
def _tests(kind: type) -> tuple[tuple[str, Test, str], ...]:
    hints = get_type_hints(kind)
    return tuple((field.name, *_test(hints[field.name])) for field in fields(kind))


def _test(hint: Any) -> tuple[Test, str]:
    """Whether a value is of the annotated type, and the words for it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is int:
        return is_whole, "a whole number"
    if hint is float:
        return is_real, "a number"
    if hint is bool:
        return lambda value: isinstance(value, bool), "true or false"
    if hint is str:
        return lambda value: isinstance(value, str), "a text"
    if hint is None or hint is type(None):
        return lambda value: value is None, "null"
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in arguments, " or ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        tests = [_test(argument) for argument in arguments]
        return lambda value: any(test(value) for test, _ in tests), " or ".join(words for _, words in tests)
    if origin is tuple and arguments[-1] is Ellipsis:
        test, words = _test(arguments[0])
        return lambda value: isinstance(value, tuple) and all(map(test, value)), f"a list, each {words}"
    if origin is dict:
        (key, words), (value, their_words) = _test(arguments[0]), _test(arguments[1])
        return (
            lambda one: isinstance(one, dict) and all(map(key, one)) and all(map(value, one.values())),
            f"an object of {words} and {their_words}",
        )
    if origin is Mapping or hint is Mapping:
        return lambda value: isinstance(value, Mapping), "an object"
    if is_dataclass(hint):
        return lambda value: isinstance(value, hint), str(getattr(hint, "__name__", hint))  # pyright: ignore
    return lambda value: True, "anything"
