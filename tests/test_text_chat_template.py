"""Chat templates: byte for byte what transformers renders, and no template can eat the machine."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.base.errors import TemplateError
from pellucid.text.templates import filters as template_filters
from pellucid.text.templates.chat_template import Rendered, render
from pellucid.text.templates.tool_schema import tool_schema

theirs = pytest.importorskip("transformers.utils.chat_template_utils")

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


class FixedDate(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime(2025, 3, 14, 15, 9, 26)


@pytest.fixture(autouse=True)
def _same_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_filters, "datetime", FixedDate)
    monkeypatch.setattr(theirs, "datetime", FixedDate)


def rendered_by_transformers(template: str, messages: list, **options: Any) -> str:
    return theirs.render_jinja_template([messages], chat_template=template, **{**SPECIAL, **options})[0][0]


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The text rendered, or that it failed."""
    try:
        result = function(*args, **kwargs)
    except Exception as error:
        return (
            "(raises)"
            if function is rendered_by_transformers or isinstance(error, TemplateError)
            else f"raises {error!r}"
        )
    return result.text if isinstance(result, Rendered) else result


def assert_same(template: str, messages: list, **options: Any) -> str:
    expected = outcome(rendered_by_transformers, template, messages, **options)
    assert outcome(render, template, messages, special_tokens=SPECIAL, **options) == expected
    return expected


# -- A worked example


def test_a_template_writes_the_conversation() -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m['content'] | trim }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    messages = [{"role": "user", "content": " 你好 "}, {"role": "assistant", "content": "Hi"}]
    assert (
        render(template, messages, add_generation_prompt=True, special_tokens={"bos_token": "<s>"}).text
        == "<s><user>你好\n<assistant>Hi\n<assistant>"
    )


def test_message_content_is_data_and_never_evaluated() -> None:
    content = "{{ 1 + 1 }}{% for i in range(9) %}{{ i }}{% endfor %}{# hidden #}${{ x }}"
    assert render("{{ messages[0].content }}", [{"role": "user", "content": content}]).text == content


# -- The templates of current models, against transformers

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city <now> & 'then'",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "e.g. 北京"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": ["integer", "null"], "default": 3},
                "where": {"type": "array", "items": {"type": "object", "properties": {"lat": {"type": "number"}}}},
            },
            "required": ["city"],
        },
    },
}
NOTHING = {
    "type": "function",
    "function": {"name": "nothing", "description": "Does nothing", "parameters": {"type": "object", "properties": {}}},
}


def user(content: Any) -> dict:
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> dict:
    return {"role": "assistant", "content": content, **more}


def system(content: str) -> dict:
    return {"role": "system", "content": content}


def call(arguments: Any, name: str = "get_weather") -> dict:
    return {"id": "call12345", "type": "function", "function": {"name": name, "arguments": arguments}}


ASKED = [user("Weather in Paris?"), assistant("", tool_calls=[call({"city": "Paris", "days": 2})])]
ANSWERED = [*ASKED, {"role": "tool", "name": "get_weather", "tool_call_id": "call12345", "content": "22 °C, 晴"}]
CONVERSATIONS: dict[str, list] = {
    "one question": [user("Hello")],
    "system": [system("You are terse. 简短。"), user("Hello")],
    "system that switches thinking off": [system("Be kind. /no_think"), user("Hello")],
    "multi-turn": [
        system("Be brief."),
        user("1+1?"),
        assistant("2"),
        user(" 再加一呢？ \n"),
        assistant("  三\n"),
        user("谢谢🎉"),
    ],
    "ends with the assistant": [user("Say A"), assistant("A, and so on")],
    "thought": [user("Why?"), assistant("<think>\nbecause\n</think>\n\nSo."), user("Sure?")],
    "reasoning apart": [
        user("Why?"),
        assistant("So.", reasoning_content="because"),
        user("Sure?"),
        assistant("Yes", thinking="hm"),
    ],
    "tool call": ASKED,
    "tool call with text": [user("Paris?"), assistant("Let me look.", tool_calls=[call({"city": "Paris"})])],
    "tool call, arguments as text": [user("Paris?"), assistant(None, tool_calls=[call('{"city": "Paris"}')])],
    "tool result": ANSWERED,
    "tool result and answer": [system("Use tools."), *ANSWERED, assistant("It is 22 °C."), user("And now?")],
    "two tool calls": [
        user("Both?"),
        assistant("", tool_calls=[call({"city": "A"}), call({"city": "B"}, "nothing")]),
        {"role": "tool", "tool_call_id": "call12345", "content": "1"},
        {"role": "tool", "tool_call_id": "call12345", "content": "2"},
        assistant("Done"),
    ],
    "content in parts": [
        user([{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "你看"}])
    ],
    "template syntax as content": [user("{{ bos_token }} {% raise %} <|im_end|>")],
    "roles out of order": [user("a"), user("b")],
    "unknown role": [{"role": "narrator", "content": "once"}],
    "nobody": [],
    "no content": [{"role": "user"}],
}
OPTIONS: dict[str, dict] = {
    "plain": {},
    "generation prompt": {"add_generation_prompt": True},
    "tools": {"tools": [WEATHER, NOTHING], "add_generation_prompt": True},
    "thinking": {"enable_thinking": True, "add_generation_prompt": True},
    "no thinking": {"enable_thinking": False, "add_generation_prompt": True},
    "documents": {"documents": [{"title": "Tides", "text": "They come\nand go."}], "add_generation_prompt": True},
    "model's own options": {
        "reasoning_effort": "high", "model_identity": "You are Pellucid.", "builtin_tools": ["python", "browser"],
        "date_string": "14 Mar 2025", "tools": [WEATHER], "tools_in_user_message": False, "thinking": True,
    },
    "continued": {"continue_final_message": True},
}  # fmt: skip
TEMPLATES = [
    "GLM-4.6", "HuggingFaceTB-SmolLM3-3B", "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B", "deepseek-ai-DeepSeek-V3.1",
    "google-gemma-2-2b-it", "meta-llama-Llama-3.1-8B-Instruct", "microsoft-Phi-3.5-mini-instruct",
    "mistralai-Mistral-Nemo-Instruct-2407", "openai-gpt-oss-120b",
]  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_renders_as_transformers_renders(shared: Path, name: str) -> None:
    template = (shared / "chat_templates" / f"{name}.jinja").read_text("utf-8")
    written = set()
    for conversation in CONVERSATIONS.values():
        for options in OPTIONS.values():
            written.add(assert_same(template, conversation, **options))
    assert len(written) >= 20  # the conversations were not all refused


def test_all_templates_of_the_test_data_are_tested(shared: Path) -> None:
    assert sorted(path.stem for path in (shared / "chat_templates").glob("*.jinja")) == sorted(TEMPLATES)


def test_the_real_config_of_qwen3_carries_a_template_that_renders_the_same(shared: Path) -> None:
    import json

    template = json.loads((shared / "qwen3_tokenizer" / "tokenizer_config.json").read_text("utf-8"))["chat_template"]
    assert "你好" in assert_same(template, [user("你好")], tools=[WEATHER], add_generation_prompt=True)


# -- Every filter, method and test that is offered, against transformers

EXPRESSIONS = """
'a b c'.split() | 'a,b,,c'.split(',') | 'a,b,c'.split(',', 1) | 'a,b,c'.rsplit(',', maxsplit=1)
'a\\nb\\r\\nc'.splitlines()
'a\\nb'.splitlines(true) | '  x '.strip() | 'xxaxx'.strip('x') | 'xxa'.lstrip('x') | 'axx'.rstrip('x')
'prefix-a'.removeprefix('prefix-')
'a.py'.removesuffix('.py') | 'straße'.upper() | 'ÀB'.lower() | 'aB'.swapcase() | 'hello wORLD'.title()
'hELLO'.capitalize()
'ß'.casefold() | 'a=b=c'.partition('=') | 'a=b=c'.rpartition('=') | 'abcabc'.find('c') | 'abcabc'.rfind('c')
'abc'.index('b')
'abc'.rindex('b') | 'abcabc'.count('bc') | 'abc'.startswith('ab') | 'abc'.endswith(('x', 'c'))
'abc'.replace('b', 'BB')
'aaa'.replace('a', 'b', 2) | 'abc'.replace('', '-') | 'x'.center(5) | 'x'.ljust(4, '.') | 'x'.rjust(4) | '7'.zfill(3)
'a\\tb'.expandtabs(4) | '-'.join(['a', 'b']) | '你'.isalpha() | '12'.isdigit() | 'ab'.isupper() | ' '.isspace()
'a1'.isalnum()
'a_b'.isidentifier() | 'abc'.index('z') | '{} and {}'.format('a', 1)
'{x:>5}|{y:.2f}|{z!r}'.format(x='a', y=1.5, z='q')
'{0[k]} {0}'.format({'k': 1}) | '{:05d}'.format(42) | '{a}'.format_map({'a': 1}) | '%s is %d, %5.2f%%' % ('a', 3, 1.5)
'%(a)s-%(b)05d' % {'a': 'x', 'b': 7} | '%r' % [1, 'a'] | '%s %s' % ('only one',) | '%x' % 255 | 'abc'[1:]
'abc'[::-1] | [1, 2, 3][:-1]
(1, 2, 3)[1:2] | range(9)[2:4] | 'abc'[-1] | [1, 2][5] | 'abc'[none:2] | nothing[1:] | messages['x':] | 1 + 2
7 // 2 | 7 / 2 | 7 % 3
2 ** 10 | -3 | +3 | 1.5 * 2 | 'a' * 3 | 3 * 'a' | [1] * 2 | [1] + [2] | (1,) + (2,) | 1 / 0 | 'a' + 1
nothing + 1 | 2 ** -1
1 ~ 'a' ~ none ~ [1, 'b'] ~ nothing ~ true ~ 1.5 | not nothing | nothing or 'x' | 'a' and 'b' | 'x' if false
'x' if true else 'y'
nothing.deeper | 1 == 1.0 | [1, [2]] == [1, [2]] | {'a': 1} == {'a': 1} | 1 < 2 < 3 | 'a' in 'cat' | 1 in [1, 2]
'k' in {'k': 1}
'a' not in 'bcd' | 1 < 'a' | none == nothing | {'a': 1, 'b': [1, 2]} | {'a': 1}.items() | {'a': 1}.keys()
{'a': 1}.values()
{'a': 1}.get('a') | {'a': 1}.get('b', 'd') | {'items': 5}.items is callable | {'items': 5}['items']
{1: 'a', 2.5: 'b', none: 'c', true: 'd'} | [1, 2, 1].count(1) | [1, 2].index(2) | (1, 2).index(2) | [1].copy()
{'a': 1}.copy()
{'a': 1}.nothing | [3, 1, 2]|sort | ['b', 'A', 'c']|sort | ['b', 'A', 'c']|sort(case_sensitive=true)
[{'a': 2}, {'a': 1}]|sort(attribute='a', reverse=true) | {'b': 1, 'A': 2}|dictsort
{'b': 1, 'a': 2}|dictsort(by='value')
[1, 2, 2, 'a', 'A']|unique|list | [{'r': 1}, {'r': 1}]|unique(attribute='r')|list | [1, 2]|reverse|list
'abc'|reverse | [1, 2, 3]|first
[]|first | [1, 2, 3]|last | 'abc'|first | [1, 5, 2]|max | [1, 5, 2]|min | ['b', 'A']|min | []|max | [1, 2]|sum
[{'n': 1}, {'n': 2}]|sum(attribute='n') | [1, 2]|sum(start=10) | ['a']|sum | [1, 2, 3]|join | [1, 2]|join(', ')
[{'n': 'x'}]|join('-', attribute='n') | 'abc'|list | {'a': 1}|list | {'a': 1}|length | 5|length
[1, 2, 3, 4, 5]|batch(2)|list
[1, 2, 3]|batch(2, 'x')|list | [1, 2, 3, 4, 5]|slice(2)|list | [1, 2, 3]|slice(2, 'x')|list
{'a': 1}|items|list | nothing|items|list
[1, 2, 3, 4]|select('odd')|list | [1, 0, 2]|select|list | [1, 2, 3]|reject('even')|list | [0, 1]|reject|list
['a', 'B']|map('upper')|list
[{'a': 1}, {}]|map(attribute='a', default='?')|list | [{'a': {'b': 1}}]|map(attribute='a.b')|list
[{'r': 'x'}, {'r': 'y'}]|selectattr('r', 'equalto', 'y')|list | [{'r': 1}, {'q': 1}]|selectattr('r')|list
[{'r': 1}, {'q': 1}]|selectattr('r', 'defined')|list | [{'r': 'x'}, {'r': 'y'}]|rejectattr('r', 'in', ['x'])|list
[1, 2]|map('nofilter')|list | [1]|select('notest')|list
[{'r': 'x', 'i': 1}, {'r': 'y', 'i': 2}, {'r': 'x', 'i': 3}]|groupby('r')|list
([{'r': 'x'}]|groupby('r')|first).grouper | ([{'r': 'x'}]|groupby('r')|first).list | []|select|length
1 if []|select else 2
([1]|map('string'))|first | ([1, 2]|map('string'))|last | [[1], [2]]|map('first')|list
[3, 4]|map('add', 1)|list | ' a '|trim
'xxaxx'|trim('x') | 5|trim | 'aB'|upper | 'aB'|lower | 5|upper | 'hello wORLD-a (b'|title | 'hELLO'|capitalize
'x'|center(5) | 'x'|center
'a b'|replace('a', 'c') | 'aaa'|replace('a', 'b', 2) | 5|replace(5, 6) | 'one two  three'|wordcount
'a\\nb\\n\\nc'|indent
'a\\nb\\n\\nc'|indent(2, true, true) | 'a\\nb'|indent('> ') | 'a\\x0bb'|indent('> ')
'a long sentence with many words in it to cut'|truncate(12) | 'abcdefgh'|truncate(5, true, '', 0)
'%s-%s'|format('a', 1)
'%(a)s'|format(a=1) | '%d'|format('x') | 5|string | '12'|int | '12.7'|int | 'x'|int | 'x'|int(-1)
'0x1f'|int(0, 16) | 2.9|int | none|int
'1.5'|float | 'x'|float | 'x'|float(2.5) | 2.567|round(1) | 2.1|round(0, 'ceil') | 25|round(-1)
2.9|round(method='floor') | -5|abs
'x'|abs | 'x'|round | nothing|default('d') | ''|default('d', true) | none|d('x') | 'x'|attr('upper') is defined
{'a': 1}|attr('a')
true|string | '<a href="x">&\\''|e | '<'|escape ~ '<' | '<b>'|safe + '<' | '<'|safe|upper
('<'|safe).join(['<', '>']) | '<'|safe ~ '<'
('%s'|safe) % '<' | ('{}'|safe).format('<') | [1]|e | ('<'|e)|trim
{'b': [1, 2.5, none, true], 'a': '你好 <&>"\\''}|tojson
{'b': 1, 'a': 2}|tojson(sort_keys=true) | [1, {'a': 2}]|tojson(indent=2)
[1, {'a': 2}]|tojson(indent=4, ensure_ascii=false)
'你'|tojson(ensure_ascii=true) | [1, 2, {'a': 1}]|tojson(separators=(',', ':')) | nothing|tojson
range(3)|tojson | (1, 2)|tojson
''|tojson | 1e100|tojson | [1, {'a': []}]|tojson(indent='..') | 1 is odd | 2 is even | 9 is divisibleby(3)
x is defined | x is undefined
none is none | true is boolean | false is false | true is true | 1 is integer | 1.0 is float | true is integer
'a' is lower | 'A' is upper
'a' is string | {} is mapping | 1 is number | [] is sequence | 5 is iterable | 'upper' is filter | 'odd' is test
none is sameas(none)
1 is callable | range is callable | 'a'.upper is callable | 1 is eq(1) | 1 is ne(2) | 2 is gt(1)
1 is lessthan(2) | 1 is in([1])
'a' is escaped | ('a'|safe) is escaped | [1]|select is sequence | [1]|map('abs') is iterable | 'upper' is test
dict(a=1, b=2)
dict({'a': 1}, b=2) | dict([('a', 1)]) | namespace(a=1).a | namespace(a=1).b is defined | range(5)|list
range(2, 9, 3)|list
cycler('a', 'b').next() | joiner(', ')() | strftime_now('%Y-%m-%d %H:%M:%S') | messages[0].role | messages|length
messages[0]['nothing'] is none | messages[0].pop is defined | messages[0]._private
messages[0]['_x'] is defined | (1).real
(1.5).is_integer() | 'a' ~ 'b' == 'ab' | [1, 2, 3] | ('a',) | 'it\\'s' | '\\u4f60' | 1_000 | 1e3 | [[], {}, ()]
none | true | 1.0
"""
STATEMENTS = [
    "{% for a, b in {'x': 1, 'y': 2}.items() %}{{ loop.index }}{{ a }}{{ b }}{{ ', ' if not loop.last }}{% endfor %}",
    (
        "{% for i in range(9) if i is odd %}{{ loop.index0 }}/{{ loop.length }}/{{ loop.revindex }}:{{ i }}"
        " {% else %}none{% endfor %}"
    ),
    "{% for i in [] %}{% else %}none{% endfor %}",
    (
        "{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{{ loop.cycle('a', 'b') }}{{ loop.previtem }}"
        "{{ loop.nextitem }}{{ loop.first }}{% endfor %}"
    ),
    (
        "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 4 %}{% break %}{% endif %}"
        "{{ i }}{% endfor %}"
    ),
    "{% for x in [1, [2, [3]]] recursive %}{{ loop.depth }}{{ x if x is number else loop(x) }}{% endfor %}",
    "{% for i in [1, 2]|map('string') %}{{ i }}{{ loop.last }}{{ loop.length }}{% endfor %}",
    (
        "{% for c in 'abc' %}{{ c }}{{ loop.revindex0 }}{% endfor %}{% for k in {'a': 1} %}{{ k }}"
        "{% endfor %}{% for x in nothing %}{% endfor %}"
    ),
    "{% for x in 5 %}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for i in range(5) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}{{ ns }}",
    "{% set ns = namespace(_a=1) %}",
    "{% set ns = namespace() %}{% set ns._a = 1 %}",
    (
        "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set t %}x{{ a }}{% endset %}{{ t|length }}{% set u | upper %}"
        "q{% endset %}{{ u }}"
    ),
    (
        "{% macro m(a, b='d') %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }}{{ m(1, 2, 3, "
        "c=4) }}{{ m.name }}{{ m.arguments }}"
    ),
    "{% macro m() %}<{{ caller('x') }}>{% endmacro %}{% call(v) m() %}{{ v }}!{% endcall %}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% filter upper|trim %} a{{ 'b' }} {% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}",
    "{% raw %}{{ not }}{% endraw %}{# comment #}",
    "  {% if true %}\n    x\n  {% endif %}\n  y\n",
    "a\n{%- if true -%}\n  b  \n{%- endif -%}\n c {{- ' d ' -}} e\n\n",
    "{%+ if true %} x{% endif +%}\n y",
    (
        "{% set j = joiner('|') %}{% for i in 'ab' %}{{ j() }}{{ i }}{% endfor %}{% set c = cycler(1, 2) %}"
        "{{ c.next() }}{{ c.current }}{{ c.reset() }}"
    ),
    "{% for i in range(3) %}{% set x = i %}{% endfor %}{{ x is defined }}",
    "{{ raise_exception('no: ' ~ messages[0].role) }}",
    "{{ raise_exception() }}",
    (
        "{% if messages[0].role == 'user' and messages[0].content is string %}{{ messages[0]['content'] }}"
        "{% elif nothing %}n{% else %}e{% endif %}"
    ),
    "{% generation %}{{ messages[0].content }}{% endgeneration %}",
    "{{ undefined_function() }}",
    "{% unknown %}",
    "{{ unclosed",
    "{% for %}",
    "{{ 'x'|nofilter }}",
    "{{ '\\n' }}\n",
]


@pytest.mark.parametrize("line", EXPRESSIONS.strip().split("\n"))
def test_expressions_mean_what_they_mean_in_transformers(line: str) -> None:
    templates = ["{{ " + expression + " }}" for expression in line.split(" | ")]
    ours = [outcome(render, template, [user("q")]) for template in templates]
    assert list(zip(templates, ours, strict=True)) == [
        (template, outcome(rendered_by_transformers, template, [user("q")])) for template in templates
    ]


@pytest.mark.parametrize("template", STATEMENTS)
def test_statements_mean_what_they_mean_in_transformers(template: str) -> None:
    assert_same(template, [user("q & <a>")])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["user", "assistant", "system", "tool"]), st.text(max_size=30)),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
def test_any_text_renders_as_in_transformers(turns: list[tuple[str, str]], add_generation_prompt: bool) -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}"
        "{% if not loop.first and m.role == messages[loop.index0 - 1].role %}+{% endif %}"
        "<|{{ m.role }}|>{{ m.content|trim if m.role == 'user' else m.content.split('\\n')[-1] }}"
        "{{ m|tojson }}{% endfor %}"
    )
    messages = [{"role": role, "content": content} for role, content in turns]
    assert_same(template, messages, add_generation_prompt=add_generation_prompt)


# -- Inputs


class Colour(enum.StrEnum):
    RED = "red"


@dataclasses.dataclass
class Turn:
    role: str
    content: str


def test_templates_see_plain_data_only() -> None:
    messages: list = [
        {
            "role": Colour.RED,
            "content": ("a", np.float64(1.5), np.bool_(False), np.arange(3), Turn("user", "x"), Path("/etc")),
        }
    ]
    text = assert_same("{{ messages[0].role }}{{ messages[0].content }}{{ messages[0].content[4].role }}", messages)
    assert "<ndarray>" in text
    assert "<PosixPath>" in text or "Path" in text
    assert_same("{{ messages[0].content }}", [Turn("user", "hi")])


def test_documents_and_tools_must_be_mappings() -> None:
    with pytest.raises(TemplateError, match="documents must be a list of mappings"):
        render("x", [user("a")], documents=["text"])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TemplateError, match="tools must be a list of mappings"):
        render("x", [user("a")], tools=["search"])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TemplateError, match="messages must be a list of mappings"):
        render("x", ["hello"])  # pyright: ignore[reportArgumentType]


def test_template_options_override_special_tokens() -> None:
    assert render("{{ bos_token }}", [], special_tokens={"bos_token": "<s>"}, bos_token="<b>").text == "<b>"


# -- Continuing the final message

CHATML = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
TRIMMED = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>\n{% endfor %}"


def test_a_continued_message_ends_the_text() -> None:
    messages = [user("Count"), assistant("one, two, ")]
    assert render(CHATML, messages, continue_final_message=True).text == "<|user|>Count<|end|>\n<|assistant|>one, two, "
    assert render(TRIMMED, messages, continue_final_message=True).text == "<|user|>Count<|end|>\n<|assistant|>one, two,"
    assert messages[1]["content"] == "one, two, "  # the caller's messages stay as they were


@pytest.mark.parametrize(
    "template",
    [
        CHATML,
        TRIMMED,
        "{% for m in messages %}{{ m.reasoning_content }}|{{ m.content }}{% endfor %}",
        "{{ 'content' }}",
    ],
)
@pytest.mark.parametrize(
    "final",
    [assistant("ab"), assistant(""), assistant("a\n "), assistant([{"type": "text", "text": "ab"}]), assistant([{}]),
     assistant(None), assistant("ab", reasoning_content="why"), {"role": "assistant"}],
)  # fmt: skip
@pytest.mark.parametrize("field", [True, "content", "reasoning_content", "thinking"])
def test_continuing_is_as_in_transformers(template: str, final: dict, field: bool | str) -> None:
    assert_same(template, [user("q"), final], continue_final_message=field)


def test_a_prompt_cannot_both_continue_and_begin_an_answer() -> None:
    with pytest.raises(TemplateError, match="exclude each other"):
        render(CHATML, [user("q")], add_generation_prompt=True, continue_final_message=True)


# -- Generation spans


def test_generation_blocks_give_the_spans_that_transformers_gives() -> None:
    template = (
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "<end>{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
    )
    messages = [user("你好"), assistant("您好🎉"), user("bye"), assistant("")]
    rendered = render(template, messages)
    [text], [spans] = theirs.render_jinja_template(
        [messages], chat_template=template, return_assistant_tokens_mask=True
    )
    assert rendered == Rendered(text, spans)
    assert [rendered.text[start:end] for start, end in rendered.assistant_spans] == ["您好🎉<end>", "<end>"]


def test_spans_end_where_a_continued_message_ends() -> None:
    template = (
        "{% for m in messages %}<{{ m.role }}>{% generation %}{{ m.content }}<end>{% endgeneration %}{% endfor %}"
    )
    rendered = render(template, [user("q"), assistant("partial")], continue_final_message=True)
    assert [rendered.text[start:end] for start, end in rendered.assistant_spans] == ["q<end>", "partial"]


# -- Tools as functions


def search(
    query: str,
    limit: int = 10,
    mode: Literal["fast", "deep"] = "fast",
    tags: list[str] | None = None,
    where: dict[str, float] | None = None,
) -> list[str]:
    """Search the library.

    Finds what is there.

    Args:
        query: What to look for,
            in any language
        limit: How many, at most
        mode: How (choices: ["fast", "deep"])
        tags: Only with these
        where: A point

    Returns:
        The titles found.
    """
    return [query, str(limit), mode, str(tags), str(where)]


def paint(colour: Colour, at: tuple[int, float], how: int | str, what: Any, old: bool = False) -> None:
    """Paint.

    Args:
        colour: Which
        at: Where
        how: How
        what: What
        old: Old
    """


class Library:
    def lend(self, title: str) -> str:
        """Lend a book.

        Args:
            title: The book's title
        """
        return title


@pytest.mark.parametrize("function", [search, paint, Library().lend])
def test_a_function_is_described_as_in_transformers(function: Callable) -> None:
    assert tool_schema(function) == theirs.get_json_schema(function)
    assert_same("{{ tools|tojson }}", [user("q")], tools=[function, WEATHER])


def undocumented(x: int) -> int:
    return x


def unhinted(x):
    """Do.

    Args:
        x: A thing
    """
    return x


def undescribed(x: int) -> int:
    """Do."""
    return x


def odd_type(x: Path) -> None:
    """Do.

    Args:
        x: A path
    """


def bad_choices(x: str) -> None:
    """Do.

    Args:
        x: A thing (choices: [a, b])
    """


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (undocumented, "no docstring"),
        (unhinted, "'x' has no type hint"),
        (undescribed, "does not describe the argument 'x'"),
        (odd_type, "no JSON schema"),
        (bad_choices, "choices are not JSON"),
    ],
)
def test_a_function_that_cannot_be_described_is_an_error_that_says_why(function: Callable, message: str) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011
        theirs.get_json_schema(function)
    with pytest.raises(TemplateError, match=re.escape(message)):
        render("{{ tools|tojson }}", [user("q")], tools=[function])


# -- Size


def test_large_honest_conversations_fit_the_budget(shared: Path) -> None:
    many = [turn for i in range(2500) for turn in (user(f"question {i}"), assistant(f"answer {i}"))] + [user("end")]
    long = [
        user("q"),
        assistant("<think>\n" + "思考 think " * 100_000 + "</think>" + "答案 " * 100_000),
        user("好" * 500_000),
    ]
    for name in TEMPLATES:
        template = (shared / "chat_templates" / f"{name}.jinja").read_text("utf-8")
        for messages in (many, long):
            assert len(assert_same(template, messages, add_generation_prompt=True)) > 10_000
