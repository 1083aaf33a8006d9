"""What a chat template may do with values: arithmetic, string methods, formatting, each paid for before it runs.

Every function takes the ``Budget`` first. Results are those of Python; only what no honest template needs is refused
(integers beyond 64 bits, containers as dictionary keys, ``encode`` and other ways out of text).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2.runtime import Undefined
from jinja2.sandbox import SandboxedEscapeFormatter, SandboxedFormatter
from markupsafe import Markup

from pellucid.text.templates.budget import CONTAINERS, Budget, BudgetExceeded, budget_of

MAX_INTEGER = 2**63
ESCAPED = 6  # how much longer HTML escaping makes a text, at most

# -- Text


def to_text(budget: Budget, value: Any) -> str:
    """``str(value)``, paid for."""
    if isinstance(value, str):
        budget.charge_text(len(value))
        return str(value)
    if isinstance(value, CONTAINERS):
        weight = budget.weigh(value)
        budget.charge_text(weight.characters + weight.nodes)
        text = str(value)
        budget.charge_text(len(text))  # quotes and escapes come on top
        return text
    return str(value)


def join_text(budget: Budget, separator: str, parts: Iterable[Any]) -> str:
    """``separator.join`` of the parts as text."""
    return _join(budget, separator, (to_text(budget, part) for part in budget.each(parts)))


def _join(budget: Budget, separator: str, parts: Iterable[Any]) -> str:
    parts = list(budget.each(parts))
    length = sum(len(part) for part in parts if isinstance(part, str)) + len(separator) * len(parts)
    budget.charge_text(length, _growth(separator))
    return separator.join(parts)


def _growth(*texts: Any) -> int:
    """Markup escapes what it is joined with."""
    return ESCAPED if any(isinstance(text, Markup) for text in texts) else 1


# -- Operators


def binary(budget: Budget, symbol: str, apply: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    """``left symbol right`` for ``+ - * / // % **``."""
    budget.charge()
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        if symbol == "**" and abs(right) > 64 and isinstance(left, int) and abs(left) > 1:
            raise BudgetExceeded("integers beyond 64 bits are not offered to chat templates")
        return bounded(apply(left, right))
    if isinstance(left, str) and symbol == "%":
        return percent_format(budget, left, right)
    if isinstance(left, str) and isinstance(right, str) and symbol == "+":
        budget.charge_text(len(left) + len(right), _growth(left, right))
    elif isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)) and symbol == "+":
        budget.charge(len(left) + len(right))
    elif symbol == "*" and isinstance(left, (str, list, tuple)) and isinstance(right, int):
        _charge_repeat(budget, left, right)
    elif symbol == "*" and isinstance(right, (str, list, tuple)) and isinstance(left, int):
        _charge_repeat(budget, right, left)
    elif not isinstance(left, Undefined) and not isinstance(right, Undefined):
        raise TypeError(
            f"unsupported operand type(s) for {symbol}: {type(left).__name__!r} and {type(right).__name__!r}"
        )
    return apply(left, right)


def _charge_repeat(budget: Budget, value: str | list | tuple, times: int) -> None:
    length = len(value) * max(times, 0)
    if isinstance(value, str):
        budget.charge_text(length)
    else:
        budget.charge(length)


def bounded(number: Any) -> Any:
    """The number, if it is no integer beyond 64 bits: there, time and memory would grow with the digits."""
    if isinstance(number, int) and abs(number) >= MAX_INTEGER:
        raise BudgetExceeded("integers beyond 64 bits are not offered to chat templates")
    return number


def cut(budget: Budget, value: Any, start: Any, stop: Any, step: Any) -> Any:
    """``value[start:stop:step]``"""
    part = slice(start, stop, step)
    if isinstance(value, str):
        budget.charge_text(len(range(*part.indices(len(value)))))
    elif isinstance(value, (list, tuple)):
        budget.charge(len(range(*part.indices(len(value)))))
    elif not isinstance(value, (range, Undefined)):
        raise TypeError(f"{type(value).__name__!r} object cannot be sliced")
    return value[part]


def check_key(budget: Budget, key: Any) -> Any:
    """A value about to be hashed: a scalar. (The hashes of tuples can be made to collide, at quadratic cost.)"""
    if isinstance(key, str):
        budget.charge_text(len(key))
    elif isinstance(key, (tuple, *CONTAINERS)):
        raise TypeError(f"unhashable type in chat templates: {type(key).__name__!r}")
    return bounded(key)


# -- Formatting

_PERCENT = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(\*|\d*)(?:\.(\*|\d*))?")
_DIGITS = re.compile(r"\d+")


def _charge_widths(budget: Budget, widths: Iterable[str]) -> None:
    """Pay for the widths and precisions that a format asks for."""
    for width in widths:
        budget.charge_text(int(width) if len(width) < 10 else 10**10)


def percent_format(budget: Budget, template: str, values: Any) -> str:
    """``template % values``"""
    longest = budget.weigh(values).characters
    budget.charge_text(
        len(template), 1 + template.count("%(")
    )  # for each of them, the pattern may look far ahead for its ')'
    places = _PERCENT.findall(template)
    widths = [width for place in places for width in place if width]
    if "*" in widths:
        raise BudgetExceeded("'%*d' (a width that is itself an argument) is not offered to chat templates")
    _charge_widths(budget, widths)
    budget.charge_text(len(template) + longest * len(places), _growth(template))
    text = template % values
    budget.charge_text(len(text))
    return text


class _Metered(SandboxedFormatter):
    """``str.format`` whose fields are paid for, one by one."""

    def format_field(self, value: Any, format_spec: str) -> str:
        budget = budget_of(self._env)
        _charge_widths(budget, _DIGITS.findall(format_spec))
        if isinstance(value, CONTAINERS):
            value = to_text(budget, value)
        elif isinstance(value, str):
            budget.charge_text(len(value), _growth(value))
        return super().format_field(value, format_spec)

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion is not None:
            to_text(budget_of(self._env), value)
        return super().convert_field(value, conversion)


class _MeteredEscape(_Metered, SandboxedEscapeFormatter):
    pass


def format_text(environment: Any, template: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """``template.format(*args, **kwargs)``; attributes in fields go through the sandbox."""
    environment.budget.charge_text(len(template))
    if isinstance(template, Markup):
        text = _MeteredEscape(environment, escape=template.escape).vformat(template, args, kwargs)
    else:
        text = _Metered(environment).vformat(template, args, kwargs)
    environment.budget.charge_text(len(text))
    return type(template)(text)


# -- Methods of strings: each a function (budget, text, *args) that pays, after which the method runs.

_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def count_lines(text: str) -> int:
    """An upper bound of ``len(text.splitlines())``."""
    return 1 + sum(map(text.count, _LINE_ENDS))


def _search(budget: Budget, text: str, *args: Any, **_: Any) -> None:
    """One pass over the text, slower the longer what is searched for (the searches from the right are quadratic)."""
    longest = max((len(arg) for arg in args if isinstance(arg, str)), default=1)
    budget.charge_text(len(text), 1 + longest // 8)


def _grow(budget: Budget, text: str, *_: Any, **__: Any) -> None:
    budget.charge_text(3 * len(text))  # 'ΐ'.upper() is three characters


def _split(budget: Budget, text: str, sep: Any = None, maxsplit: Any = -1) -> None:
    _search(budget, text, sep)
    pieces = text.count(sep) if isinstance(sep, str) and sep else len(text) // 2
    budget.charge(1 + (min(pieces, maxsplit) if isinstance(maxsplit, int) and maxsplit >= 0 else pieces))


def _splitlines(budget: Budget, text: str, *_: Any, **__: Any) -> None:
    budget.charge_text(len(text), len(_LINE_ENDS))
    budget.charge(count_lines(text))


def _pad(budget: Budget, text: str, width: Any, *_: Any) -> None:
    budget.charge_text(max(len(text), operator.index(width)))


def _expandtabs(budget: Budget, text: str, tabsize: Any = 8) -> None:
    budget.charge_text(len(text) + text.count("\t") * max(operator.index(tabsize), 0))


def _replace(budget: Budget, text: str, old: Any, new: Any, count: Any = -1) -> None:
    _search(budget, text, old)
    if isinstance(old, str) and isinstance(new, str):
        times = text.count(old)
        times = min(times, count) if isinstance(count, int) and count >= 0 else times
        budget.charge_text(len(text) + times * max(len(new) - len(old), 0), _growth(text))


_PAYMENTS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(
        (
            "strip",
            "lstrip",
            "rstrip",
            "removeprefix",
            "removesuffix",
            "startswith",
            "endswith",
            "partition",
            "rpartition",
        ),
        _search,
    ),
    **dict.fromkeys(("find", "rfind", "index", "rindex", "count"), _search),
    **dict.fromkeys(("lower", "upper", "capitalize", "title", "swapcase", "casefold"), _grow),
    **{name: _search for name in dir(str) if name.startswith("is")},
    **dict.fromkeys(("split", "rsplit"), _split),
    **dict.fromkeys(("ljust", "rjust", "center", "zfill"), _pad),
    "splitlines": _splitlines,
    "expandtabs": _expandtabs,
    "replace": _replace,
}


# Attributes of the other types. Sequences' ``index`` and ``count`` compare, so they pay for walking through the
# sequence.
_OFFERED: dict[type, frozenset[str]] = {
    dict: frozenset({"get", "items", "keys", "values", "copy"}),
    list: frozenset({"index", "count", "copy"}),
    tuple: frozenset({"index", "count", "grouper", "list"}),  # the last two: how the groupby filter names its pairs
    int: frozenset({"real", "imag", "numerator", "denominator", "bit_length"}),
    float: frozenset({"real", "imag", "is_integer"}),
    range: frozenset({"start", "stop", "step"}),
    str: frozenset({"format", "format_map", "join", *_PAYMENTS}),
}


def is_offered(owner: Any, name: str) -> bool:
    """Whether a template may look at this attribute of a plain value."""
    return any(isinstance(owner, kind) and name in names for kind, names in _OFFERED.items())


def attribute(environment: Any, owner: Any, name: str, value: Any) -> Any:
    """An offered attribute's value; a method as one that is paid for when called."""
    if not isinstance(value, (MethodType, BuiltinMethodType)):
        return value
    budget: Budget = environment.budget
    if name == "format":
        return lambda *args, **kwargs: format_text(environment, owner, args, kwargs)
    if name == "format_map":
        return lambda mapping: format_text(environment, owner, (), mapping)
    if name == "join":
        return partial(_join, budget, owner)

    def method(*args: Any, **kwargs: Any) -> Any:
        if isinstance(owner, str):
            _PAYMENTS[name](budget, owner, *args, **kwargs)
        else:
            budget.weigh(args)
            budget.weigh(owner if name in ("index", "count") else None)
            budget.charge(len(owner) if name == "copy" else 1)
        return value(*args, **kwargs)

    return method
