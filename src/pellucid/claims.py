"""What an executor claims to run: a description, field by field; what it does not claim is refused by its name.

``Claims`` is a table, dataclass → field → ``Claim``. Every field of a description is held to it, however deep: a field
that the table does not name must be at its default, a part of a kind that it does not name is refused whole. So a field
that is new in ``config`` is refused wherever it says something, until an executor that computes it says so here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pellucid.base.errors import UnsupportedError
from pellucid.config import ModelConfig


@dataclass(frozen=True)
class Claim:
    """Which values of a field an executor computes; without conditions, all of them.

    ``values``: these alone. ``alike``: the same in every layer that has the field. ``test``: those for which it holds,
    given the part that has the field and the whole description; ``words`` say what it asks for. ``read`` False: no
    number depends on it.
    """

    values: tuple[Any, ...] | None = None
    alike: bool = False
    test: Callable[[Any, Any, ModelConfig], bool] | None = None
    words: str = ""
    read: bool = True


ANY, ALIKE, UNREAD = Claim(), Claim(alike=True), Claim(read=False)


def one_of(*values: Any, alike: bool = False) -> Claim:
    return Claim(values, alike)


@dataclass(frozen=True)
class Refusal:
    """A field that an executor does not run: ``layers.3.mixer.qk_norm_over = 'all'``."""

    path: str
    value: Any
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.path} = {_shown(self.value)}" + (f" ({self.reason})" if self.reason else "")


class Claims:
    """One executor's table. A field of few words (``Literal``) is claimed word by word: a new one is refused, too."""

    def __init__(self, executor: str, table: Mapping[type, Mapping[str, Claim]]) -> None:
        self.executor, self.table = executor, dict(table)
        for kind, claims in table.items():
            hints = get_type_hints(kind)
            for name, claim in claims.items():
                assert name in hints, f"{kind.__name__} has no field {name}"
                assert claim.values or not claim.read or not _is_literal(hints[name]), f"{name}: which of its words?"

    def refusals(self, config: ModelConfig) -> Iterator[Refusal]:
        """All that the executor does not run, in the order of the description."""
        yield from self._walk(config, config, "", "", {})

    def refusal(self, config: ModelConfig) -> Refusal | None:
        """The first field that the executor does not run; None where it runs the model."""
        return next(self.refusals(config), None)

    def require(self, config: ModelConfig, remedy: str | None = None) -> None:
        """Raises: UnsupportedError that names the field."""
        if refusal := self.refusal(config):
            raise UnsupportedError(
                f"the {self.executor} executor does not run {refusal}", where=config.model_type, remedy=remedy
            )

    def read(self, config: ModelConfig) -> Iterator[tuple[str, Any]]:
        """Path and value of every field that numbers depend on: equal lists, equal computations."""
        yield from self._read(config, "")

    def _walk(
        self, part: Any, config: ModelConfig, path: str, general: str, first: dict[str, tuple[str, Any]]
    ) -> Iterator[Refusal]:
        """``general`` is the path without the layer's number; ``first``: where a field that is alike was met first."""
        claims = self.table.get(kind := self._kind(part))
        if claims is None:
            yield Refusal(path.rstrip("."), part, "of a kind that is not known")
            return
        for field in _fields(kind):
            value, place, claim = getattr(part, field.name), path + field.name, claims.get(field.name)
            if claim is None:
                if not _is_default(field, value):
                    yield Refusal(place, value)
                continue
            if not claim.read:
                continue
            if reason := self._lacking(claim, value, part, config, place, general + field.name, first):
                yield Refusal(place, value, reason)
                continue
            for inner, step in _parts(value):
                yield from self._walk(
                    inner, config, f"{place}.{step}", f"{general}{field.name}.{'*.' if step else ''}", first
                )

    def _kind(self, part: Any) -> type:
        """What the part is in the table: its type; a model's description may come with further names for its fields."""
        return ModelConfig if isinstance(part, ModelConfig) else type(part)

    @staticmethod
    def _lacking(
        claim: Claim,
        value: Any,
        part: Any,
        config: ModelConfig,
        place: str,
        general: str,
        first: dict[str, tuple[str, Any]],
    ) -> str:
        """Why the claim does not hold for the value; nothing where it does."""
        if claim.values is not None and value not in claim.values:
            return "it runs " + ", ".join(map(repr, claim.values))
        if claim.test is not None and not claim.test(value, part, config):
            return claim.words
        if claim.alike:
            met, expected = first.setdefault(general, (place, value))
            if value != expected:
                return f"it runs layers that are alike, and {met} is {_shown(expected)}"
        return ""

    def _read(self, part: Any, path: str) -> Iterator[tuple[str, Any]]:
        claims = self.table.get(kind := self._kind(part), {})
        for field in _fields(kind):
            if (claim := claims.get(field.name)) and not claim.read:
                continue
            value = getattr(part, field.name)
            inner = list(_parts(value))
            if not inner:
                yield path + field.name, value
            for other, step in inner:
                yield from self._read(other, f"{path}{field.name}.{step}")


def _shown(value: Any) -> str:
    return type(value).__name__ if is_dataclass(value) else repr(value)


@cache
def _fields(kind: type) -> tuple[Field[Any], ...]:
    return fields(kind)


def _is_literal(hint: Any) -> bool:
    return get_origin(hint) is Literal or any(_is_literal(argument) for argument in get_args(hint))


def _is_default(field: Field[Any], value: Any) -> bool:
    if field.default_factory is not MISSING:
        return value == field.default_factory()
    return field.default is not MISSING and value == field.default


def _parts(value: Any) -> Iterator[tuple[Any, str]]:
    """The dataclasses in a field: itself, or a tuple's, with what their paths have after the field's name."""
    if is_dataclass(value):
        yield value, ""
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            if is_dataclass(item):
                yield item, f"{i}."
