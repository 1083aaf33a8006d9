"""Arguments that nobody here knows: a TypeError that names the nearest known one, or where the idea lives here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NoReturn


def refuse_unknown(call: str, unknown: Mapping[str, Any], known: Iterable[str], elsewhere: Mapping[str, str]) -> None:
    """Raises: TypeError for the first argument among ``unknown``; what is known elsewhere and switched off is none."""
    for name, value in unknown.items():
        if name in elsewhere and (value is None or value is False):
            continue
        _refuse(call, name, tuple(known), elsewhere)


def _refuse(call: str, name: str, known: tuple[str, ...], elsewhere: Mapping[str, str]) -> NoReturn:
    if name in elsewhere:
        raise TypeError(f"{call} takes no {name!r} here → {elsewhere[name]}")
    near = get_close_matches(name, known, 1, 0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(sorted(known))}"
    raise TypeError(f"{call} has no argument {name!r} → {hint}")


def without(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The arguments but for these, which change nothing here."""
    return {name: value for name, value in given.items() if name not in names}
