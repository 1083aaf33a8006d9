"""The sandbox of chat templates: errors name the line, private things stay private, no template eats the machine."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pellucid.base.errors import TemplateError
from pellucid.text.templates import budget as template_budget
from pellucid.text.templates.chat_template import render
from pellucid.text.templates.sandbox import Sandbox


def user(content: Any) -> dict:
    return {"role": "user", "content": content}


# -- Errors


@pytest.mark.parametrize(
    ("template", "line", "message"),
    [
        ("a\nb\n{{ raise_exception('Roles must alternate!') }}", 3, "Roles must alternate!"),
        ("\n{% if x %}", 2, "Unexpected end of template"),
        ("{% for m in messages %}\n{{ m.content.nothing.deeper }}\n{% endfor %}", 2, "has no attribute 'nothing'"),
        ("{% macro f() %}\n{{ 1 / 0 }}{% endmacro %}\n\n{{ f() }}", 2, "ZeroDivisionError"),
        ("\n\n{{ 'x'.ljust(10**10) }}", 3, "10000000000 characters"),
        ("\n{% for i in range(99999) %}{% for j in range(99999) %}\n{% endfor %}{% endfor %}", 2, "too many steps"),
        ("x\n{% include 'other' %}", 2, "{% include %} is not offered"),
        ("\n{{ 'x' | urlize }}", 2, "No filter named 'urlize'"),
    ],
)
def test_an_error_names_the_line_of_the_template(template: str, line: int, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(template, [user("q")])
    assert message in caught.value.what
    assert caught.value.where == f"chat template, line {line}"


def test_an_error_that_a_template_words_itself_is_cut_short() -> None:
    with pytest.raises(TemplateError) as caught:
        render("{{ raise_exception('x' * 1000000) }}", [])
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__",
        "''['__class__']",
        "''|attr('__class__')",
        "['']|map(attribute='__class__')|list",
        "'{0.__class__}'.format('')",
        "'{a.__class__}'.format_map({'a': 1})",
        "('{0.__class__}'|safe).format(1)",
        "messages.__len__",
        "namespace().__class__",
        "namespace(a=1)._Namespace__attrs",
        "cycler.__init__.__globals__",
        "dict.__globals__",
        "raise_exception.__globals__",
        "nothing.__class__",
    ],
)
def test_private_attributes_are_refused(expression: str) -> None:
    with pytest.raises(TemplateError, match="is refused"):
        render("{{ " + expression + " }}", [user("q")])


@pytest.mark.parametrize(
    "expression",
    [
        "messages.append(1)",
        "messages[0].update({})",
        "messages[0].clear()",
        "'a'.encode()",
        "(1).to_bytes(9, 'big')",
        "'a'.translate({})",
    ],
)
def test_what_changes_data_or_leaves_text_is_not_offered(expression: str) -> None:
    with pytest.raises(TemplateError, match="unsafe"):
        render("{{ " + expression + " }}", [user("q")])


# -- The budget

GROW = (
    "{% set ns = namespace(a=START, b=START) %}{% for i in range(60) %}{% set ns.a = STEP %}"
    "{% set ns.b = ns.a %}{% endfor %}"
)
SHARED = (
    GROW.replace("START", "[1]").replace("STEP", "[ns.a, ns.a]")
    + "{% set b = ns.a %}"
    + GROW.replace("START", "[1]").replace("STEP", "[ns.a, ns.a]")
)
SHARED_TUPLES = GROW.replace("START", "(1,)").replace("STEP", "(ns.a, ns.a)")
TWICE = "{% set x %}{{ ns.a }}{{ ns.a }}{% endset %}{% set ns.a = x %}"
HOARD = "{% set ns = namespace(s=[]) %}{% for i in range(99999) %}{% set ns.s = [ns.s, ITEM] %}{% endfor %}"
FOREVER = "{% for i in range(99999) %}{% for j in range(99999) %}BODY{% endfor %}{% endfor %}"
LONG = "{% set long = 'a' * 4000000 %}"

ATTACKS = {
    # loops
    "a huge range": "{% for i in range(10**9) %}{% endfor %}",
    "a huge range as a list": "{{ range(10**9)|list }}",
    "nested loops": FOREVER.replace("BODY", ""),
    "nested loops that filter everything out": (
        "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}"
    ),
    "lengths of filtered loops": (
        "{% for i in range(99999) %}{% for j in range(99999) if true %}{{ loop.length }}{% break %}"
        "{% endfor %}{% endfor %}"
    ),
    "filters in a loop": (
        "{% set b = range(99999)|list %}{% for i in range(99999) %}{% set c = b|reject|list %}{% endfor %}"
    ),
    "sorting in a loop": "{% set b = range(99999)|list %}{% for i in range(99999) %}{% set c = b|sort %}{% endfor %}",
    "arguments unpacked in a loop": (
        "{% macro m() %}{% endmacro %}{% set b = range(99999)|list %}{% for i in range(99999) %}{{ m(*b) }}"
        "{% endfor %}"
    ),
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a macro that calls itself twice": (
        "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}"
    ),
    "a recursive loop": "{% for x in [1, 1] recursive %}{{ loop([1, 1]) if loop.depth < 60 }}{% endfor %}",
    "an endless recursive loop": "{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}",
    "a number looked for in a range": FOREVER.replace("BODY", "{{ 1.5 in range(99999) }}"),
    # numbers
    "a tower of powers": "{{ 2**10**10 }}",
    "squaring": "{% set ns = namespace(n=3) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "rounding to many digits": "{{ 5|round(-9999999999) }}",
    "ceilings to many digits": "{{ 5|round(9999999999, 'ceil') }}",
    "a long literal": "{{ " + "9" * 100_000 + " }}",
    "colliding keys": HOARD.replace("[ns.s, ITEM]", "ns.s + [(i * (2**61 - 1), 1)]") + "{{ dict(ns.s) }}",
    # texts
    "a repeated text": "{{ 'a' * 10**10 }}",
    "a repeated constant": "{{ 'a' * 9999999999 }}",
    "a repeated list": "{{ [1] * 9999999999 }}",
    "ljust": "{{ 'x'.ljust(10**10) }}",
    "zfill": "{{ 'x'.zfill(9999999999) }}",
    "expandtabs": "{{ ('\\t' * 1000).expandtabs(99999999) }}",
    "center, compiled": "{{ 'x'|center(9999999999) }}",
    "center, in a condition": "{% if 'x'|center(9999999999) %}{% endif %}",
    "center, through map": "{{ ['x']|map('center', 10**10)|list }}",
    "a format's width": "{{ '%9999999999d' % 1 }}",
    "a format's precision": "{{ '%.999999999f' % 1 }}",
    "a format's starred width": "{{ '%*d' % (999999999, 1) }}",
    "a format's width after a long key": "{{ ('%(' ~ 'k' * 9999 ~ ')999999999d') % {'k' * 9999: 1} }}",
    "the format filter": "{{ '%9999999999d'|format(1) }}",
    "a format's width behind a test": "{{ '%9999999999d' is odd }}",
    "str.format's width": "{{ '{:>9999999999}'.format(1) }}",
    "str.format's nested width": "{{ '{:{w}}'.format(1, w=10**10) }}",
    "str.format_map's width": "{{ '{a:>9999999999}'.format_map({'a': 1}) }}",
    "str.format with many fields": LONG + "{{ ('{0}' * 100000).format(long) }}",
    "a quadratic format": "{% set x = '%(' * 1000000 %}{{ x % {} }}",
    "doubling by +": GROW.replace("START", "'aa'").replace("STEP", "ns.a + ns.a"),
    "doubling by ~": GROW.replace("START", "'aa'").replace("STEP", "ns.a ~ ns.a"),
    "doubling by join": GROW.replace("START", "'aa'").replace("STEP", "[ns.a, ns.a]|join"),
    "doubling by replace": GROW.replace("START", "'aa'").replace("STEP", "ns.a.replace('a', 'aa')"),
    "doubling by a list": GROW.replace("START", "[1]").replace("STEP", "ns.a + ns.a"),
    "doubling by a macro": (
        "{% macro m(s) %}{{ s }}{{ s }}{% endmacro %}" + GROW.replace("START", "'aa'").replace("STEP", "m(ns.a)")
    ),
    "doubling by a set block": GROW.replace("START", "'aa'").replace("{% set ns.a = STEP %}", TWICE),
    "growing by escapes": (
        GROW.replace("range(60)", "range(99999)")
        .replace("START", "'&'|safe")
        .replace("STEP", "ns.a + '&' * 9999")
    ),
    "replacing nothing": "{% set b = 'x' * 1000000 %}{{ b.replace('', b) }}",
    "the replace filter": "{% set b = 'x' * 1000000 %}{{ b|replace('', b) }}",
    "a joined text": "{% set b = 'x' * 1000000 %}{{ b.join(b) }}",
    "indent": "{{ ('\\n' * 100000)|indent(1000000) }}",
    "indent of unusual lines": "{{ ('a\\x0b' * 100000)|indent('x' * 1000000) }}",
    "indented JSON": "{{ [[1]]|tojson(indent=9999999999) }}",
    "JSON separators": "{{ range(10000)|list|tojson(separators=('x' * 1000000, ':')) }}",
    "batches": "{{ [1]|batch(9999999999, 'x')|list }}",
    "slices": "{{ [1]|slice(9999999999)|list }}",
    "sums of lists": "{{ ([[1] * 100] * 90000)|sum(start=[]) }}",
    "dates": "{{ strftime_now('%Y' * 1000000) }}",
    "quadratic searches": (
        "{% set a = 'a' * 2000000 %}{% set b = 'aab' + 'a' * 1000000 %}{{ a.rfind(b) }}"
        "{{ a.rsplit(b)|length }}"
    ),
    "a quadratic strip": "{% set a = 'a' * 2000000 %}{{ a.strip('b' * 2000000 + 'a') }}",
    "long comparisons": LONG + "{% set b = 'a' * 3999999 ~ 'a' %}" + FOREVER.replace("BODY", "{{ long == b }}"),
    "much output": FOREVER.replace("BODY", "some text that is written again and again"),
    "long template text": "{% for i in range(99999) %}" + "x" * 150_000 + "{% endfor %}",
    "much output in generation blocks": FOREVER.replace("BODY", "{% generation %}{{ 'x' * 9999 }}{% endgeneration %}"),
    # hoards
    "hoarded texts": LONG + HOARD.replace("ITEM", "long[1:]"),
    "hoarded literals": HOARD.replace("ITEM", "[" + "1, " * 8000 + "]"),
    "hoarded words": LONG + HOARD.replace("ITEM", "long.replace('aa', 'a ').split()"),
    # values that share their parts: small, but 2**60 when walked through
    "shared parts as text": SHARED + "{{ b }}",
    "shared parts as JSON": SHARED + "{{ b|tojson }}",
    "shared parts joined": SHARED + "{{ b|join(',') }}",
    "shared parts formatted": SHARED + "{{ '%s' % b }}",
    "shared parts formatted by str.format": SHARED + "{{ '{}'.format(b) }}{{ '{!r}'.format(b) }}",
    "shared parts compared": SHARED + "{{ b == ns.a }}",
    "shared parts found": SHARED + "{{ b in [ns.a] }}",
    "shared parts tested": SHARED + "{{ b is eq(ns.a) }}",
    "shared parts selected": SHARED + "{{ [b]|select('eq', ns.a)|list }}",
    "shared parts indexed": SHARED + "{{ [b].index(ns.a) }}",
    "shared parts sorted": SHARED + "{{ [b, ns.a]|sort }}",
    "shared parts changed": SHARED + "{% for i in [b, ns.a] %}{{ loop.changed(i) }}{% endfor %}",
    "shared parts in an error": SHARED + "{{ raise_exception(b) }}",
    "shared parts in another error": SHARED + "{{ {}[b] + 1 }}",
    "shared parts hashed": SHARED_TUPLES + "{{ {}.get(ns.a) }}{{ {}[ns.a] }}",
    "shared parts as a key": SHARED_TUPLES + "{{ {ns.a: 1} }}",
    "shared parts made unique": SHARED_TUPLES + "{{ [ns.a]|unique|list }}",
    "shared namespaces": GROW.replace("START", "1").replace("STEP", "namespace(x=ns.a, y=ns.a)") + "{{ ns.a }}",
    "a namespace in itself": "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
    "deep lists": (
        "{% set ns = namespace(s=[]) %}{% for i in range(90000) %}{% set ns.s = [ns.s] %}{% endfor %}"
        "{{ ns.s }}"
    ),
    "deep tuples": (
        "{% set ns = namespace(s=()) %}{% for i in range(90000) %}{% set ns.s = (ns.s,) %}{% endfor %}"
        "{{ {}.get(ns.s) }}"
    ),
    # compiling
    "nested ifs": "{% if a %}" * 5000 + "{% endif %}" * 5000,
    "nested loops by the thousand": "{% for a in b %}" * 5000 + "{% endfor %}" * 5000,
    "nested parentheses": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "nested lists": "{{ " + "[" * 50_000 + "]" * 50_000 + " }}",
    "a chain of nots": "{{ " + "not " * 30_000 + "1 }}",
    "a chain of sums": "{{ 1" + "+1" * 50_000 + " }}",
    "a chain of filters": "{{ 1" + "|abs" * 40_000 + " }}",
    "a chain of attributes": "{{ a" + ".a" * 90_000 + " }}",
    "a chain of elifs": "{% if a %}" + "{% elif a %}" * 15_000 + "{% endif %}",
    "many outputs": "{{ a }}" * 28_000,
    "many variables": "".join(f"{{% if a %}}{{% set b{i} = 1 %}}{{% endif %}}" for i in range(5000)),
    "a very long template": "x" * 300_000,
    "comments that never end": "{#" * 90_000,
    "blocks": "{% block a %}{{ self.a() }}{% endblock %}",
    "autoescape": "{% autoescape 'x'|center(9999999999) %}{% endautoescape %}",
}  # fmt: skip
# Measured: at most 0.9 s of processor time and 30 MB each; 1.5 s and 50 MB beside a message of a million characters.
MAX_SECONDS, MAX_MEGABYTES = 2.5, 300


def main_attack() -> None:
    """Run in a process of its own, whose memory is limited: every attack ends in a TemplateError, quickly."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, template in ATTACKS.items():
        start = time.thread_time()
        try:
            render(template, [user("q")])
            print(f"{name}: rendered")
        except TemplateError:
            pass
        if time.thread_time() - start > MAX_SECONDS:
            print(f"{name}: took {time.thread_time() - start:.1f} s")
        megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (
            2**20 if sys.platform == "darwin" else 2**10
        )
        if megabytes > MAX_MEGABYTES:
            print(f"{name}: took {megabytes:.0f} MB")
            return


@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
def test_no_template_takes_the_machine() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_text_template_sandbox as t; "
    code += "t.main_attack(); print('done')"
    result = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, timeout=300
    )
    assert result.stderr == ""
    assert result.stdout == "done\n"


KEPT = [
    "ns.s|map('abs')", "cycler(ns.s)", "[ns.s].foo", "joiner(ns.s)", "(ns.s,)", "[ns.s]", "{'a': ns.s}",
    "{'a': ns.s}.values()", "[ns.s].index", "namespace(s=ns.s)",
]  # fmt: skip


@pytest.mark.parametrize("kept", KEPT)
def test_long_chains_of_values_come_apart_without_recursion(kept: str) -> None:
    """Generators chained a hundred thousand deep, for one, would overflow the C stack when they are freed."""
    template = "{% set ns = namespace(s=[1]) %}{% for i in range(60000) %}{% set ns.s = " + kept + " %}{% endfor %}end"
    try:
        text = render(template, []).text
    except TemplateError as error:
        text = error.what
    assert text == "end" or text.startswith(
        "the template takes "
    )  # too many steps, too much memory, or on a busy machine too long


def test_the_budget_is_spent_once_and_for_all() -> None:
    budget = template_budget.Budget(steps=100)
    with pytest.raises(template_budget.BudgetExceeded):
        budget.charge(101)
    with pytest.raises(template_budget.BudgetExceeded):
        budget.charge(0)


def test_renderings_do_not_share_budgets_or_state() -> None:
    template = "{% for i in range(20000) %}{% set c = messages[0].content %}{% endfor %}{{ messages[0].content }}"
    assert [render(template, [user(str(i))]).text for i in range(20)] == [str(i) for i in range(20)]
    with pytest.raises(TemplateError):
        render(FOREVER, [])
    assert render(template, [user("after")]).text == "after"


def test_every_filter_and_test_of_the_sandbox_is_stock_or_pays() -> None:
    """A filter that a new Jinja brings does not come in by itself."""
    stock, ours = ImmutableSandboxedEnvironment(), Sandbox(template_budget.Budget())
    left_out = {
        "random",
        "urlize",
        "xmlattr",
        "striptags",
        "wordwrap",
        "pprint",
        "urlencode",
        "filesizeformat",
        "forceescape",
    }
    assert set(stock.filters) - set(ours.filters) == left_out
    assert set(stock.tests) == set(ours.tests)
    assert set(stock.globals) - set(ours.globals) == {"lipsum"}
