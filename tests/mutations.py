"""Descriptions that differ from one in one field: every field, every other legal value, from the types alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pellucid.base.errors import ConfigError
from pellucid.config import ModelConfig


@dataclass(frozen=True)
class Mutation:
    """``path``: the field (``layers.*.mixer.window``); ``change``: in words, the same for all descriptions."""

    path: str
    change: str
    config: ModelConfig
    base: ModelConfig


def parts_of(configs: Iterable[ModelConfig]) -> dict[type, list[Any]]:
    """Every kind of part that these descriptions have, and each that there is of it."""
    parts: dict[type, list[Any]] = {}

    def walk(part: Any) -> None:
        if is_dataclass(part):
            if part not in parts.setdefault(type(part), []):
                parts[type(part)].append(part)
            for field in fields(part):
                walk(getattr(part, field.name))
        elif isinstance(part, tuple):
            for item in part:
                walk(item)

    for config in configs:
        walk(config)
    return parts


def mutations(config: ModelConfig, parts: Mapping[type, list[Any]]) -> Iterator[Mutation]:
    """Every description that differs in one field; in a field of layers, in the last layer alone, and in all."""
    for path, change, mutated in _of_part(config, parts, skip=("layers",)):
        yield Mutation(path, change, mutated, config)
    for path, change, layer in _of_part(config.layers[-1], parts):
        value = _get(layer, path)
        variants = {
            "in the last layer": (*config.layers[:-1], layer),
            "in every layer": [_set(each, path, value) for each in config.layers],
        }
        for where, layers in variants.items():
            if all(each is not None for each in layers) and (mutated := _legal(config, layers=tuple(layers))):
                yield Mutation(f"layers.*.{path}", f"{change} {where}", mutated, config)
    yield Mutation("layers", "one less", replace(config, layers=config.layers[:-1]), config)
    yield Mutation("layers", "one more", replace(config, layers=(*config.layers, config.layers[0])), config)


def _legal(part: Any, **changes: Any) -> Any | None:
    try:
        return replace(part, **changes)
    except ConfigError:
        return None


def _get(part: Any, path: str) -> Any:
    for name in path.split("."):
        part = getattr(part, name)
    return part


def _set(part: Any, path: str, value: Any) -> Any | None:
    name, _, rest = path.partition(".")
    if not hasattr(part, name):
        return part  # a mixer of another kind has nothing to change
    if rest:
        inner = getattr(part, name)
        value = None if inner is None else _set(inner, rest, value)
        if value is None:
            return part if inner is None else None  # a layer without this part has nothing to change
    return _legal(part, **{name: value})


def _of_part(part: Any, parts: Mapping[type, list[Any]], skip: tuple[str, ...] = ()) -> Iterator[tuple[str, str, Any]]:
    hints = get_type_hints(type(part))
    for field in fields(part):
        if field.name in skip:
            continue
        value = getattr(part, field.name)
        for change, other in _others(value, hints[field.name], parts):
            if (mutated := _legal(part, **{field.name: other})) is not None and mutated != part:
                yield field.name, change, mutated
        if is_dataclass(value):
            for path, change, inner in _of_part(value, parts):
                if (mutated := _legal(part, **{field.name: inner})) is not None:
                    yield f"{field.name}.{path}", change, mutated


def _others(value: Any, hint: Any, parts: Mapping[type, list[Any]]) -> Iterator[tuple[str, Any]]:
    """Other values of the annotated type, with a word for each; whether they are legal is the description's to say."""
    arguments = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        if value is not None and type(None) in arguments:
            yield "none", None
        for argument in arguments:
            if argument is not type(None):
                yield from _others(value, argument, parts)
    elif get_origin(hint) is Literal:
        yield from ((word, word) for word in arguments if word != value)
    elif hint is bool:
        yield str(not value), not value
    elif hint is int:
        known = 6 if value is None else value
        yield from (("a number", 6),) if value is None else (("+ 1", known + 1), ("half", max(known // 2, 1)))
        yield "twice", known * 2
    elif hint is float:
        yield from (("1.5", 1.5), ("0.25", 0.25)) if not value else (("twice", value * 2), ("half", value / 2))
    elif hint is str:
        yield "another", "float16" if value == "float32" else "float32"
    elif get_origin(hint) is tuple and arguments[0] is float:
        yield "stretched", tuple(1.5 * number for number in value)
    elif get_origin(hint) is tuple and arguments[0] is int:
        yield "another", (3,)
    elif get_origin(hint) is Mapping or hint is Mapping:
        yield "another", {"a key": 1}
    elif is_dataclass(hint):
        assert isinstance(hint, type)
        if value is None:  # one that there is changes field by field
            yield from ((f"#{i}", part) for i, part in enumerate(parts.get(hint, ())))
    else:
        raise AssertionError(f"no other value of {hint} is known; say one here")
