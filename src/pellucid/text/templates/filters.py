"""The filters, tests and globals that chat templates have: stock Jinja's and transformers', each paid for.

Left out is what draws lots (``random``, ``lipsum``) and what lays out web pages (``urlize``, ``xmlattr``,
``striptags``, ``wordwrap``, ``pprint``, ``urlencode``, ``filesizeformat``, ``forceescape``): a template that names one
does not compile.

Source: jinja2/filters.py, jinja2/tests.py; ``tojson``, ``dict``, ``namespace``, ``raise_exception``, ``strftime_now``
as in transformers/utils/chat_template_utils.py.
"""

from __future__ import annotations

import functools
import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import jinja2.exceptions
from jinja2.environment import Environment
from jinja2.filters import FILTERS as STOCK_FILTERS
from jinja2.filters import ignore_case, make_attrgetter
from jinja2.runtime import Context
from jinja2.tests import TESTS as STOCK_TESTS
from jinja2.utils import Cycler, Joiner, Namespace, pass_context, pass_environment

from pellucid.text.templates import values
from pellucid.text.templates.budget import BudgetExceeded, Lazy, budget_of

Function = Callable[..., Any]
COMPARISONS = 16  # of an element while its list is sorted, about
MAX_DATE_FORMAT = 256
MAX_DIGITS = 308  # of a float


# -- Ways to pay for a stock filter or test


def _weighed(function: Function, times: int = 1) -> Function:
    """The function, after paying for ``times`` walks through its arguments."""

    @pass_context
    def paid(context: Context, /, *args: Any, **kwargs: Any) -> Any:
        for argument in (*args, *kwargs.values()):
            budget_of(context).weigh(argument, times)
        return context.call(function, *args, **kwargs)

    return paid


def _lazy(function: Function) -> Function:
    """The function of an iterable, whose elements are paid for; the generator it returns is run at once."""

    @pass_context
    def eager(context: Context, value: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget = budget_of(context)
        return Lazy(budget.each(context.call(function, budget.each(value), *args, **kwargs)))

    return eager


def _textual(method: str) -> Function:
    """The string method as a filter of anything that can be written as text."""
    return pass_context(lambda context, value: _call_method(context, _text(context, value), method))


def _text(context: Context, value: Any) -> str:
    return value if isinstance(value, str) else values.to_text(budget_of(context), value)


def _call_method(context: Context, text: str, method: str, *args: Any) -> Any:
    return values.attribute(context.environment, text, method, getattr(text, method))(*args)


def _numeric(function: Function) -> Function:
    """The function, of numbers only: ``'%d' % 2`` is the remainder of no division."""

    def of_number(value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, (str, list, tuple)):
            raise TypeError(f"expected a number, received {type(value).__name__!r}")
        return values.bounded(function(value, *args, **kwargs))

    return of_number


# -- Filters


@pass_context
def _center(context: Context, value: Any, width: int = 80) -> str:
    return _call_method(context, _text(context, value), "center", width)


@pass_context
def _trim(context: Context, value: Any, chars: str | None = None) -> str:
    return _call_method(context, _text(context, value), "strip", chars)


@pass_context
def _replace(context: Context, s: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = (values.to_text(budget_of(context), value) for value in (s, old, new))
    return _call_method(context, text, "replace", old, new, -1 if count is None else count)


@pass_context
def _tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes; the options are those of ``json.dumps``."""
    budget = budget_of(context)
    weight = budget.weigh(value, COMPARISONS if sort_keys else 2)
    margin = len(indent) if isinstance(indent, str) else max(indent, 0) if isinstance(indent, int) else 0
    budget.charge_text(
        weight.characters + weight.nodes * (4 + budget.weigh(separators).characters + margin * weight.depth)
    )
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    budget.charge_text(len(text))
    return text


@pass_context
def _join(context: Context, value: Any, d: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        value = map(make_attrgetter(context.environment, attribute), value)
    return values.join_text(budget_of(context), values.to_text(budget_of(context), d), value)


@pass_context
def _indent(context: Context, s: str, width: Any = 4, first: bool = False, blank: bool = False) -> Any:
    margin = len(width) if isinstance(width, str) else width
    lines = values.count_lines(s)
    budget_of(context).charge(lines)
    budget_of(context).charge_text(len(s) + lines * max(margin, 1))
    return STOCK_FILTERS["indent"](s, width, first, blank)


@pass_context
def _format(context: Context, value: Any, /, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise jinja2.exceptions.FilterArgumentError("can't handle positional and keyword arguments at the same time")
    return values.percent_format(budget_of(context), _text(context, value), kwargs or args)


@pass_context
def _title(context: Context, value: Any) -> Any:
    text = _text(context, value)
    budget_of(context).charge(len(text))  # one piece a word
    return STOCK_FILTERS["title"](text)


@pass_context
def _wordcount(context: Context, value: Any) -> int:
    text = _text(context, value)
    budget_of(context).charge(len(text))
    return STOCK_FILTERS["wordcount"](text)


@pass_context
def _escape(context: Context, value: Any) -> Any:
    text = _text(context, value)
    budget_of(context).charge_text(len(text) * values.ESCAPED)
    return STOCK_FILTERS["escape"](text)


@pass_context
def _list(context: Context, value: Any) -> list[Any]:
    return list(budget_of(context).each(value))


@pass_context
def _reverse(context: Context, value: Any) -> Any:
    if isinstance(value, str):
        return values.cut(budget_of(context), value, None, None, -1)
    return Lazy(budget_of(context).each(STOCK_FILTERS["reverse"](value)))


@pass_context
def _unique(context: Context, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Lazy:
    key_of = make_attrgetter(context.environment, attribute, postprocess=None if case_sensitive else ignore_case)
    budget, first = budget_of(context), {}
    for item in budget.each(value):
        first.setdefault(values.check_key(budget, key_of(item)), item)
    return Lazy(first.values())


@pass_context
def _sum(context: Context, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    value_of, budget = make_attrgetter(context.environment, attribute), budget_of(context)
    return functools.reduce(
        lambda total, item: values.binary(budget, "+", operator.add, total, value_of(item)), iterable, start
    )


@pass_context
def _batch(context: Context, value: Any, linecount: int, fill_with: Any = None) -> Any:
    if fill_with is not None:
        budget_of(context).charge(max(linecount, 0))
    return _lazy(STOCK_FILTERS["batch"])(context, value, linecount, fill_with)


@pass_context
def _slice(context: Context, value: Any, slices: int, fill_with: Any = None) -> Any:
    budget_of(context).charge(max(slices, 0))
    return _lazy(STOCK_FILTERS["slice"])(context, value, slices, fill_with)


def _round(value: Any, precision: int = 0, method: str = "common") -> Any:
    if abs(precision) > MAX_DIGITS:
        raise BudgetExceeded(
            f"rounding to {precision} digits is not offered to chat templates"
        )  # 10**precision is an integer
    if method not in ("common", "ceil", "floor"):
        raise jinja2.exceptions.FilterArgumentError("method must be common, ceil or floor")
    return (
        round(value, precision) if method == "common" else getattr(math, method)(value * 10**precision) / 10**precision
    )


@pass_context
def _float(context: Context, value: Any, default: float = 0.0) -> Any:
    return default if isinstance(value, str) and len(value) > 4 * MAX_DIGITS else STOCK_FILTERS["float"](value, default)


@pass_context
def _int(context: Context, value: Any, default: int = 0, base: int = 10) -> Any:
    return (
        default
        if isinstance(value, str) and len(value) > 4 * MAX_DIGITS
        else values.bounded(STOCK_FILTERS["int"](value, default, base))
    )


FILTERS: dict[str, Function] = {
    # nothing to pay for: they look at one element or none
    **{name: STOCK_FILTERS[name] for name in ("attr", "count", "d", "default", "first", "last", "length")},
    **{name: _textual(name) for name in ("capitalize", "lower", "upper")},
    **{name: _lazy(STOCK_FILTERS[name]) for name in ("map", "reject", "rejectattr", "select", "selectattr")},
    **{name: _weighed(STOCK_FILTERS[name]) for name in ("max", "min", "safe", "truncate")},
    **{name: _weighed(STOCK_FILTERS[name], COMPARISONS) for name in ("dictsort", "groupby", "sort")},
    "abs": _numeric(abs),
    "batch": _batch,
    "center": _center,
    "e": _escape,
    "escape": _escape,
    "float": _float,
    "format": _format,
    "indent": _indent,
    "int": _int,
    "items": pass_context(lambda context, value: Lazy(budget_of(context).each(STOCK_FILTERS["items"](value)))),
    "join": _join,
    "list": _list,
    "replace": _replace,
    "reverse": _reverse,
    "round": _numeric(_round),
    "slice": _slice,
    "string": pass_context(_text),
    "sum": _sum,
    "title": _title,
    "tojson": _tojson,
    "trim": _trim,
    "unique": _unique,
    "wordcount": _wordcount,
}

# -- Tests

_ARITHMETIC = ("odd", "even", "divisibleby")
_LOOKS = ("defined", "undefined", "none", "boolean", "false", "true", "integer", "float", "string", "mapping", "number")
_LOOKS += ("sequence", "iterable", "callable", "sameas", "escaped")

TESTS: dict[str, Function] = {
    **{name: _weighed(function) for name, function in STOCK_TESTS.items()},
    **{name: STOCK_TESTS[name] for name in _LOOKS},
    **{name: _numeric(STOCK_TESTS[name]) for name in _ARITHMETIC},
}

# -- Globals


class TemplateNamespace(Namespace):
    """``namespace(...)``: without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, args = args[0], args[1:]  # so that a template may say namespace(self=...)
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(
            f"a namespace cannot hold {name!r}: names that begin with an underscore are private"
        )


@pass_environment
def _namespace(environment: Environment, /, *args: Any, **kwargs: Any) -> TemplateNamespace:
    return TemplateNamespace(_dict(environment, *args, **kwargs))


@pass_environment
def _dict(environment: Environment, /, *args: Any, **kwargs: Any) -> dict[Any, Any]:
    budget = budget_of(environment)
    if len(args) > 1:
        raise TypeError(f"dict expected at most 1 argument, got {len(args)}")
    pairs: Iterable[Any] = args[0].items() if args and isinstance(args[0], Mapping) else args[0] if args else ()
    made = {values.check_key(budget, key): value for key, value in budget.each(pairs)}
    budget.charge(len(kwargs))
    return {**made, **kwargs}


@pass_environment
def _raise_exception(environment: Environment, message: Any) -> None:
    raise jinja2.exceptions.TemplateError(values.to_text(budget_of(environment), message))


def _strftime_now(format: str) -> str:
    if len(format) > MAX_DATE_FORMAT:
        raise BudgetExceeded(
            f"a date format of more than {MAX_DATE_FORMAT} characters is not offered to chat templates"
        )
    return datetime.now().strftime(format)


GLOBALS: dict[str, Any] = {
    "cycler": Cycler,
    "dict": _dict,
    "joiner": Joiner,
    "namespace": _namespace,
    "raise_exception": _raise_exception,
    "strftime_now": _strftime_now,
}
