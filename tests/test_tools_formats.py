"""Tool-call formats: what a template writes is read back, however it is cut; and nothing of it is content."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tool_formats import ARGUMENTS, FILES, KINDS, NOW, ONE_CALL, TEMPLATES, TOOLS, WEATHER, Case, case

from pellucid.base.errors import RequestError
from pellucid.text.tools.asked import Asked, asked
from pellucid.text.tools.choose import tool_format
from pellucid.text.tools.deltas import Delta, Message, joined
from pellucid.text.tools.messages import prepared

NAMES = sorted({**FILES, **TEMPLATES})


@pytest.fixture(scope="module", params=NAMES)
def one(request: pytest.FixtureRequest, shared: Path) -> Case:
    return case(request.param, shared)


def two_calls(one: Case) -> list[tuple[str, dict[str, Any]]]:
    calls: list[tuple[str, dict[str, Any]]] = [("get_weather", ARGUMENTS), ("now", {})]
    return calls[:1] if one.name in ONE_CALL else calls


def read(one: Case, prompt: str, pieces: list[str], wanted: Asked | None = None) -> list[Delta]:
    numbers = iter(range(100))
    parser = one.form.parser(wanted or one.asked, prompt, new_id=lambda: f"id{next(numbers)}")
    return [*(delta for piece in pieces for delta in parser.push(piece)), *parser.finish()]


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({min(place, len(text)) for place in places} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(ends)]


def checked(deltas: list[Delta]) -> Message:
    """The message, and that its calls' deltas are as clients need them: id and name once, first, in order."""
    begun = -1
    for delta in deltas:
        assert [bool(delta.content), bool(delta.reasoning), delta.call is not None].count(True) == 1
        if delta.call is not None and delta.call.name is not None:
            begun += 1
            assert (delta.call.index, delta.call.id) == (begun, f"id{begun}")
        elif delta.call is not None:
            assert delta.call.index == begun
            assert delta.call.id is None
            assert delta.call.arguments
    return joined(deltas)


def test_the_format_is_known_by_the_template(one: Case):
    assert one.form.name == KINDS[one.name]


def test_calls_as_the_template_writes_them_are_read_back(one: Case):
    prompt, answer = one.said(two_calls(one))
    message = checked(read(one, prompt, [answer]))
    assert [(call.name, json.loads(call.arguments)) for call in message.calls] == two_calls(one)
    assert (message.content, message.reasoning) == ("", "")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_cutting_of_an_answer_gives_the_same_message(one: Case, data: st.DataObject):
    prompt, answer = one.said(two_calls(one))
    if one.form.thought is not None and one.form.thinking(prompt) == "free":
        answer = (
            f"{one.form.thought.begin}\nI look,\n\nI think. {one.form.thought.end}\n\n{answer.split('</think>')[-1]}"
        )
    answer = answer[: data.draw(st.sampled_from([len(answer), len(answer) * 3 // 4, len(answer) // 2]))]
    places = data.draw(st.lists(st.integers(0, len(answer)), max_size=12))
    assert checked(read(one, prompt, cut(answer, places))) == checked(read(one, prompt, [answer]))
    assert checked(read(one, prompt, list(answer))) == checked(read(one, prompt, [answer]))


def test_words_before_a_call_are_content_and_the_call_is_not(one: Case):
    if one.form.name in ("harmony", "llama3", "generic"):
        pytest.skip("in this format an answer is words or calls")
    prompt, answer = one.said(two_calls(one))
    call = answer[answer.index(one.form.begin) :]
    message = checked(read(one, prompt, list(f"I look it up.\n{call}")))
    assert message.content == "I look it up."
    assert len(message.calls) == 2


def test_words_alone_are_content_to_the_last_space(one: Case):
    if one.form.name == "harmony":
        pytest.skip("harmony's words are in a message")
    for text in ("Hello <b>x</b> < | [ { `a` }\n\n", "<", "<tool", "a <|", "  \n"):
        message = checked(read(one, "", list(text)))
        assert message == Message(content=text)


def test_without_tools_what_looks_like_a_call_is_text(one: Case):
    if one.form.name == "harmony":
        pytest.skip("a call is a message to a function")
    prompt, answer = one.said(two_calls(one))
    message = checked(read(one, prompt, list(answer), asked()))
    shown = answer.removeprefix("\n<think></think>").removeprefix("<think>\n\n</think>").strip()
    for token in one.form.special:
        shown = shown.replace(token, "")
    assert message.calls == []
    assert message.content.strip() == shown


def test_an_answer_that_is_cut_off_in_a_call_leaks_nothing_of_it(one: Case):
    if one.form.name in ("llama3", "generic"):
        pytest.skip("without tags, a beginning of JSON may be an answer")
    prompt, answer = one.said(two_calls(one)[:1])
    at = answer.index(one.form.begin) + len(one.form.begin) if one.form.name != "harmony" else 1
    for end in range(at, len(answer)):
        message = checked(read(one, prompt, [answer[:end]]))
        assert message.content == "", answer[:end]
        assert len(message.calls) <= 1


@pytest.mark.parametrize("name", ["qwen3", "glm", "deepseek-v3.1"])
def test_thoughts_are_reasoning_and_never_content(shared: Path, name: str):
    one = case(name, shared)
    thought = "Hm, <tool_call> or </thin or\n\n<b>?"
    for text in (f"<think>\n{thought}\n</think>\n\nYes.", f"\n<think>{thought}</think>Yes."):
        assert checked(read(one, "", list(text))) == Message(content="Yes.", reasoning=thought)
    assert checked(read(one, "<think>\n", list(f"{thought}\n</think>\n\nYes."))) == Message("Yes.", thought)
    assert checked(read(one, "<think>", list(f"<think>\n{thought}</think>Yes."))) == Message("Yes.", thought)
    assert checked(read(one, "<think>\n\n</think>\n\n", list("Yes </think>"))) == Message("Yes </think>")
    assert checked(read(one, "", list(f"<think>{thought}"))) == Message(reasoning=thought)
    assert checked(read(one, "", ["<think>", "</think>", "Yes"])) == Message("Yes")


def test_harmony_channels_become_reasoning_content_and_calls(shared: Path):
    one = case("gpt-oss", shared)
    text = (
        "<|channel|>analysis<|message|>I look.<|end|><|start|>assistant<|channel|>commentary<|message|>One moment."
        "<|end|><|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|call|>"
    )
    message = checked(read(one, "<|start|>assistant", list(text)))
    assert (message.reasoning, message.content) == ("I look.", "One moment.")
    assert [(call.name, call.arguments) for call in message.calls] == [("now", "{}")]
    final = "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>42<|return|>"
    assert checked(read(one, "", list(final))) == Message("42", "Easy.")


def test_special_tokens_that_say_nothing_are_not_content(shared: Path):
    template = (shared / "chat_templates" / FILES["qwen3"]).read_text()
    parser = tool_format(template, {"<|im_start|>": 1, "<|im_end|>": 2}).parser(asked(TOOLS))
    deltas = [delta for piece in "a<|im_start|>b <|im_" for delta in parser.push(piece)] + parser.finish()
    assert joined(deltas) == Message("ab <|im_")


@pytest.mark.parametrize(
    ("written", "read_back"),
    [
        ('{"arguments": {"city": "Oslo"}, "name": "get_weather"}', '{"city": "Oslo"}'),
        ('{"type": "function", "name": "get_weather", "parameters": {"city": "Oslo"}}', '{"city": "Oslo"}'),
        ('{"function": {"name": "get_weather", "arguments": "{\\"city\\": 1}"}, "id": 7}', '{"city": 1}'),
        ('{"name": "get_weather"}', "{}"),
        ('{"name": "get_weather", "arguments": null}', "{}"),
        ('{"name":"get_weather","arguments":{"a":[1,{"b":"}\\"{"}]}}', '{"a":[1,{"b":"}\\"{"}]}'),
    ],
)
def test_an_object_that_names_a_call_is_read_in_any_order(shared: Path, written: str, read_back: str):
    one = case("qwen3", shared)
    message = checked(read(one, "", list(f"<tool_call>\n{written}\n</tool_call>")))
    assert [(call.name, call.arguments) for call in message.calls] == [("get_weather", read_back)]


@pytest.mark.parametrize("broken", ["<tool_call>\nnothing\n</tool_call>", "<tool_call>[1]</tool_call> more"])
def test_what_is_tagged_as_a_call_and_is_none_is_said_as_it_stands(shared: Path, broken: str):
    assert checked(read(case("qwen3", shared), "", list(broken))) == Message(broken)


def test_json_that_names_no_tool_is_content_where_calls_have_no_tags(shared: Path):
    one = case("llama3", shared)
    for text in ('{"name": "nobody", "parameters": {}}', '{"a": 1, "name": "now"}', "{", '{"name": "get_wea'):
        assert checked(read(one, "", list(text))) == Message(text)


@pytest.mark.parametrize("name", ["qwen2.5", "none"])
def test_a_call_whose_tags_a_model_forgot_is_a_call_where_it_begins_the_answer(shared: Path, name: str):
    one = case(name, shared)
    call = '{\n  "name": "get_weather",\n  "arguments": {\n    "city": "Oslo"\n  }\n}'
    for text in (call, f"```json\n{call}\n```", f"\n```\n{call}```\n", f"{call}\n{call}", f"```json\n{call}\n"):
        message = checked(read(one, "", list(text)))
        assert {(call.name, "".join(call.arguments.split())) for call in message.calls} == {
            ("get_weather", '{"city":"Oslo"}')
        }
        assert message.content == ""
    for text in (f"Like this:\n{call}", "```python\nx = {}\n```", "```json\n[1]\n```", '```json\n{"name": 1}```'):
        assert checked(read(one, "", list(text))) == Message(text)


def test_values_between_tags_have_the_types_of_the_schema(shared: Path):
    schema = {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "number": {"type": "number"},
            "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "list": {"$ref": "#/$defs/list"},
        },
        "$defs": {"list": {"type": "array"}},
    }
    wanted = asked([{"type": "function", "function": {"name": "f", "parameters": schema}}])
    values = {"text": "12", "number": "12", "either": "null", "list": "[1]", "unknown": "x"}
    body = "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n" for key, value in values.items())
    message = checked(read(case("glm", shared), "", list(f"<tool_call>f\n{body}</tool_call>"), wanted))
    expected = {"text": "12", "number": 12, "either": None, "list": [1], "unknown": "x"}
    assert json.loads(message.calls[0].arguments) == expected


def test_a_long_string_between_tags_comes_as_it_is_written(shared: Path):
    one = case("glm", shared)
    parser = one.form.parser(one.asked)
    parser.push("<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>")
    assert joined(parser.push('one "two" ')).calls == [] or True
    pieces = [delta.call.arguments for delta in parser.push("three") if delta.call is not None]
    assert "".join(pieces) == "three"


# --- what is asked -----------------------------------------------------------------------------------------------


def test_tool_choice_in_all_its_forms():
    assert asked(TOOLS).choice == "auto"
    assert asked(None, "auto").choice == "none"
    assert not asked(TOOLS, "none").calls
    named = asked(TOOLS, {"type": "function", "function": {"name": "now"}})
    assert (named.choice, named.names, named.parallel) == ("required", {"now"}, False)
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"name": "now"}]}}
    assert (asked(TOOLS, allowed).choice, asked(TOOLS, allowed).names) == ("required", {"now"})
    assert not asked(TOOLS, "auto", parallel_tool_calls=False).parallel
    flat = {"type": "function", **WEATHER["function"]}  # as the responses API has them
    assert asked([flat]).tools == asked([WEATHER]).tools


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([NOW, NOW],), "two tools have one name"),
        (([], "required"), "there is none"),
        (([NOW], {"function": {"name": "then"}}), "no tool 'then'"),
        (([NOW], "sometimes"), "tool_choice is not understood"),
        (([{"type": "web_search"}],), "only functions"),
        (([{"type": "function", "function": {"name": "a b"}}],), r"tools\[0\]: a function needs a name"),
        (([{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}],), "parameters of a"),
        ((["now"],), "must be an object"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_field(arguments: tuple[Any, ...], said: str):
    with pytest.raises(RequestError, match=said):
        asked(*arguments)


# --- conversations ------------------------------------------------------------------------------------------------


def test_a_conversation_with_null_ids_and_null_content_is_rendered(one: Case):
    names = ["get_weather", "now"][: 1 if one.name in ONE_CALL else 2]
    calls = [{"id": None, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in names]
    messages = [
        {"role": "user", "content": "Weather?", "tool_calls": None, "name": None},
        {"role": "assistant", "content": None, "tool_calls": calls},
        *({"role": "tool", "tool_call_id": None, "content": f"result of {name}"} for name in names),
        {"role": "assistant", "content": [{"type": "text", "text": "It is "}, {"type": "text", "text": "sunny."}]},
        {"role": "user", "content": "Thanks."},
    ]
    text = one.render(messages, add_generation_prompt=True)
    places = [text.index(part) for part in ("Weather?", *(f"result of {name}" for name in names), "It is sunny.")]
    assert places == sorted(places)
    assert "None" not in text
    assert "null" not in text


def test_results_without_ids_answer_the_calls_in_order():
    calls = [{"function": {"name": name, "arguments": {}}} for name in ("a", "b")]
    results = [{"role": "tool", "content": "1"}, {"role": "tool", "content": "2", "tool_call_id": ""}]
    out = prepared([{"role": "assistant", "tool_calls": calls}, *results])
    ids = [call["id"] for call in out[0]["tool_calls"]]
    assert [one["tool_call_id"] for one in out[1:]] == ids
    assert [one["name"] for one in out[1:]] == ["a", "b"]


def test_mistral_ids_are_nine_letters_and_the_result_has_its_calls(shared: Path):
    one = case("mistral-nemo", shared)
    call = {"id": "call_abcdefghijklmnop", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    out = prepared(
        [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "12"},
        ],
        one.form,
    )
    assert out[1]["tool_call_id"] == out[0]["tool_calls"][0]["id"]
    assert len(out[1]["tool_call_id"]) == 9
    assert out[1]["tool_call_id"].isalnum()
