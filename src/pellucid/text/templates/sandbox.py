"""The sandbox that chat templates run in: transformers' Jinja environment, with a budget that holds.

Where stock Jinja would compile an expression straight to Python (iteration, comparison, ``~``, slices, output), the
syntax tree is rewritten to pass through a filter that pays first; every block pays for what it lexically holds; calls,
attributes and operators come through the environment's own methods. An environment serves one rendering and owns its
budget; compiled code is shared.

Source: transformers/utils/chat_template_utils.py, ``_cached_compile_jinja_template``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import CodeType
from typing import Any

import jinja2.exceptions
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.environment import Template
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Namespace, pass_context
from jinja2.visitor import NodeTransformer

from pellucid.base.errors import TemplateError
from pellucid.text.templates import values
from pellucid.text.templates.budget import CHARACTERS_PER_STEP, Budget, BudgetExceeded, budget_of
from pellucid.text.templates.filters import FILTERS, GLOBALS, TESTS

# What a template may hold, so that compiling it stays short: Jinja's analysis of variables is quadratic in places.
# The largest template in common use (gpt-oss) has 17,000 characters, 900 nodes, 12 levels and 18 variables.
MAX_SOURCE, MAX_NODES, MAX_NESTING, MAX_VARIABLES = 200_000, 12_000, 60, 500

MAX_CALLS = 100
MAX_MESSAGE = 1000  # characters of an error that a template words itself
_FILENAME = "<chat template>"

# There is no second template to include or extend, and ``autoescape`` would compile other code.
REFUSED = {
    nodes.Include: "include",
    nodes.Import: "import",
    nodes.FromImport: "import",
    nodes.Extends: "extends",
    nodes.Block: "block",
    nodes.ScopedEvalContextModifier: "autoescape",
}

_LOOP = (
    "index",
    "index0",
    "revindex",
    "revindex0",
    "first",
    "last",
    "length",
    "previtem",
    "nextitem",
    "depth",
    "depth0",
    "cycle",
    "changed",
)
_OBJECTS: dict[type, tuple[str, ...]] = {
    LoopContext: _LOOP,
    Macro: ("name", "arguments", "catch_kwargs", "catch_varargs", "caller"),
    Cycler: ("next", "reset", "current"),
}


# -- Operations that stock Jinja compiles to plain Python, here as filters under names that no template can write


@pass_context
def _each(context: Context, iterable: Any) -> Any:
    return budget_of(context).each(iterable)


@pass_context
def _compared(context: Context, value: Any) -> Any:
    budget_of(context).weigh(value)
    return value


@pass_context
def _key(context: Context, value: Any) -> Any:
    return values.check_key(budget_of(context), value)


@pass_context
def _concat(context: Context, parts: tuple[Any, ...]) -> str:
    return values.join_text(budget_of(context), "", parts)


@pass_context
def _cut(context: Context, value: Any, *bounds: Any) -> Any:
    return values.cut(budget_of(context), value, *bounds)


_OPERATIONS = {"(each)": _each, "(compared)": _compared, "(key)": _key, "(~)": _concat, "[:]": _cut}


class _Rewriting(NodeTransformer):
    """Passes each such operation through its filter."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filter("(each)", node.iter)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filter("(compared)", node.expr)
        for operand in node.ops:
            operand.expr = _filter("(compared)", operand.expr)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _filter("(key)", node.key)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter("(~)", nodes.Tuple(node.nodes, "load", lineno=node.lineno))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = [
            nodes.Const(None) if bound is None else bound for bound in (node.arg.start, node.arg.stop, node.arg.step)
        ]
        return _filter("[:]", node.node, *bounds)


def _filter(name: str, value: Any, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)


def _check_limits(tree: nodes.Template) -> None:
    """Raises: BudgetExceeded for a template too large to compile quickly, TemplateSyntaxError for a refused tag."""
    count, variables, level = 0, set(), [tree]
    for _ in range(MAX_NESTING):
        for node in level:
            if tag := REFUSED.get(type(node)):
                raise TemplateSyntaxError(f"{{% {tag} %}} is not offered to chat templates", node.lineno)
            if isinstance(node, nodes.Name) and node.ctx != "load":
                variables.add(node.name)
        count += len(level)
        if count > MAX_NODES or len(variables) > MAX_VARIABLES:
            raise BudgetExceeded(f"the template has more than {MAX_NODES} parts or {MAX_VARIABLES} variables")
        level = [child for node in level for child in node.iter_child_nodes()]
    if level:
        raise BudgetExceeded(f"the template is nested more than {MAX_NESTING} levels deep")


class _Generator(CodeGenerator):
    """Writes, at the head of every block, the payment for what the block holds apart from the blocks within it."""

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        self.writeline(f"environment.budget.charge({sum(map(_cost, nodes))})")
        super().blockvisit(nodes, frame)


def _cost(node: nodes.Node) -> int:
    text = node.data if isinstance(node, nodes.TemplateData) else ""
    return 1 + len(text) // CHARACTERS_PER_STEP + sum(map(_cost, node.iter_child_nodes(exclude=("body", "else_"))))


class _GenerationTag(Extension):
    """``{% generation %} … {% endgeneration %}``: notes which characters the assistant wrote."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Macro) -> str:
        text = caller()
        written: Sandbox = self.environment  # pyright: ignore[reportAssignmentType]
        written.spans.append((written.length, written.length + len(text)))
        return text


@pass_context
def _finalize(context: Context, value: Any) -> str:
    return values.to_text(budget_of(context), value)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one rendering.

    ``length``: characters written so far. ``spans``: ``(start, end)`` of each generation block among them; as in
    transformers, a block inside a macro or a ``{% set %}`` counts from where the outermost expression began.
    """

    code_generator_class = _Generator
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self, budget: Budget) -> None:
        extensions = [_GenerationTag, LoopControlExtension]
        # Nothing is folded when compiling: an expression of constants can be as costly as any other.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_finalize,
            extensions=extensions,
            cache_size=0,
        )
        self.budget = budget
        self.calls = 0
        self.length = 0
        self.spans: list[tuple[int, int]] = []
        self.filters = {**FILTERS, **_OPERATIONS}
        self.tests = dict(TESTS)
        self.globals = {**GLOBALS, "range": self.globals["range"]}

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        return values.binary(self.budget, operator, self.binop_table[operator], left, right)

    def call(
        __self, __context: Context, __obj: Any, *args: Any, **kwargs: Any
    ) -> Any:  # names that no argument of the template's has
        __self.budget.charge(1 + len(args) + len(kwargs))
        if isinstance(__obj, LoopContext):  # a recursive loop
            args = tuple(map(__self.budget.each, args))
        __self.calls += 1  # of each other; Python's own limit may have been raised, and the C stack has none
        if __self.calls > MAX_CALLS:
            raise BudgetExceeded(f"the template's macros call each other more than {MAX_CALLS} levels deep")
        try:
            return super().call(__context, __obj, *args, **kwargs)
        finally:
            __self.calls -= 1

    def getattr(self, obj: Any, attribute: str) -> Any:
        self.budget.charge()
        try:
            value = getattr(obj, attribute)
        except AttributeError:
            try:
                return obj[attribute]
            except (TypeError, LookupError):
                return self.undefined(obj=obj, name=attribute)
        return self._offer(obj, attribute, value)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self.budget.charge()
        if not isinstance(argument, str):
            self.budget.weigh(argument)
        try:
            return obj[argument]
        except (TypeError, LookupError):
            if isinstance(argument, str):
                try:
                    value = getattr(obj, argument)
                except AttributeError:
                    pass
                else:
                    return self._offer(obj, argument, value)
        return self.undefined(obj=obj, name=argument)

    def _offer(self, obj: Any, attribute: str, value: Any) -> Any:
        """The attribute, if it is one that templates may see. Raises: SecurityError for a private one."""
        if attribute.startswith("_"):
            raise SecurityError(f"access to {attribute!r} of a {type(obj).__name__!r} is refused")
        if isinstance(obj, Namespace):
            return value
        if values.is_offered(obj, attribute):
            return values.attribute(self, obj, attribute, value)
        for kind, names in _OBJECTS.items():
            if isinstance(obj, kind) and attribute in names:
                return values.attribute(self, obj, attribute, value)
        return self.unsafe_undefined(obj, attribute)


@lru_cache(maxsize=32)
def _compiled(source: str) -> CodeType:
    if len(source) > MAX_SOURCE:
        raise BudgetExceeded(f"the template is longer than {MAX_SOURCE} characters")
    environment = Sandbox(Budget())
    tree = environment.parse(source)
    _check_limits(tree)
    return environment.compile(_Rewriting().visit(tree), filename=_FILENAME)


def run(source: str, variables: Mapping[str, Any]) -> tuple[str, list[tuple[int, int]]]:
    """The text that the template writes, and the character spans of its generation blocks.

    Raises: TemplateError that names the template's line.
    """
    template = None
    try:
        budget = Budget.for_input(variables)
        environment = Sandbox(budget)
        template = Template.from_code(environment, _compiled(source), environment.globals)
        chunks = []
        for chunk in template.root_render_func(template.new_context(dict(variables))):
            environment.length += len(chunk)
            budget.charge_text(environment.length, 0)
            chunks.append(chunk)
        return "".join(chunks), environment.spans
    except Exception as error:
        raise _explained(error, template) from None


def _explained(error: Exception, template: Template | None) -> TemplateError:
    line = getattr(error, "lineno", None)
    traceback = error.__traceback__
    while traceback is not None:
        if template is not None and traceback.tb_frame.f_code.co_filename == _FILENAME:
            line = template.get_corresponding_lineno(traceback.tb_lineno)
        traceback = traceback.tb_next
    what, remedy = getattr(error, "message", None) or str(error), None
    if isinstance(error, BudgetExceeded):
        remedy = "no chat template in use needs this; check where the model comes from, or pass another template"
    elif isinstance(error, RecursionError):
        what = "the template is nested too deeply"
    elif not isinstance(error, jinja2.exceptions.TemplateError):
        what = f"{type(error).__name__}: {what}"
    what = what if len(what) <= MAX_MESSAGE else what[:MAX_MESSAGE] + "…"
    return TemplateError(what, where="chat template" if line is None else f"chat template, line {line}", remedy=remedy)
