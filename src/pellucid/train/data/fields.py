"""``--fields user=question,assistant=answer``: what the columns of a file are, where their names do not say it.

To the left stands what a record may have: ``user``, ``assistant`` and ``system``, which make a conversation, or a key
of any format (``prompt``, ``completion``, ``text``, ``chosen``, ``rejected``, ``label`` …). To the right a column, or a
path into nested ones (``answers.text.0``); several with ``+`` between are joined by line breaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pellucid.base.errors import RequestError
from pellucid.train.data.errors import DataError

_ROLES = ("system", "user", "assistant")
_KEYS = (
    *("text", "prompt", "completion", "messages", "tools", "instruction", "input", "output", "history"),
    *("chosen", "rejected", "label"),
)


@dataclass(frozen=True)
class Fields:
    """What is read → the columns that it is in."""

    columns: Mapping[str, tuple[str, ...]]

    @classmethod
    def parse(cls, text: str) -> Fields:
        """Raises: RequestError for what is no list of NAME=COLUMN, or a name that no record has."""
        columns: dict[str, tuple[str, ...]] = {}
        for part in text.split(","):
            name, equals, column = (piece.strip() for piece in part.partition("="))
            if not equals or not column or name in columns:
                raise RequestError(
                    "--fields takes what a record has, each once, and the column that it is in",
                    expected="user=question,assistant=answer",
                    received=part.strip() or text,
                )
            if name not in (*_ROLES, *_KEYS):
                raise RequestError(f"no record has {name!r}", where="--fields", expected=", ".join((*_ROLES, *_KEYS)))
            columns[name] = tuple(piece.strip() for piece in column.split("+"))
        answers = {"assistant", "completion", "output", "chosen", "text", "messages"} & {*columns}
        if not answers:
            raise RequestError(
                "--fields names nothing that is to be learned", expected="assistant=COLUMN for one", received=text
            )
        return cls(columns)

    def of(self, record: Any, where: str) -> dict[str, Any]:
        """A record of the usual keys. Raises: DataError for a column that the record lacks."""
        if not isinstance(record, Mapping):
            raise DataError("a record must be an object", where=where, received=type(record).__name__)
        read = {name: self._value(record, name, where) for name in self.columns}
        read = {name: value for name, value in read.items() if value is not None}
        turn = {name: read.pop(name) for name in _ROLES if name in read and "user" in self.columns}
        if not turn:
            return read
        messages = [{"role": name, "content": turn[name]} for name in _ROLES if name in turn]
        return {**read, "messages" if "assistant" in turn else "prompt": messages}

    def _value(self, record: Mapping[str, Any], name: str, where: str) -> Any:
        parts = [_at(record, column, where) for column in self.columns[name]]
        if len(parts) == 1:
            return parts[0]
        return "\n".join(part for part in parts if isinstance(part, str) and part)


def _at(record: Any, column: str, where: str) -> Any:
    if isinstance(record, Mapping) and column in record:  # a name may hold a dot
        return record[column]
    value = record
    for step in column.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise DataError(
                f"the record has no {column!r}", where=where, received=", ".join(map(str, record))[:200] or "{}"
            )
    return value
