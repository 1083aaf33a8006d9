"""Tools and thoughts over HTTP, in three APIs' shapes, as their own clients read them. The model writes gibberish."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest
from serving import TOOLS, Server, tiny_model

SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"enum": ["Bonn", "Ulm"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
}
FUNCTION: Any = {"name": "weather", "description": "The weather.", "parameters": SCHEMA}
TOOL: Any = {"type": "function", "function": FUNCTION}
ASKED: Any = [{"role": "user", "content": "Weather?"}]
QUIET: Any = {"chat_template_kwargs": {"enable_thinking": False}}  # the tiny model would never end a thought


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = tiny_model(tmp_path_factory.mktemp("models") / "tools", template=TOOLS)
    with Server("-m", model, "--served-model-name", "tiny", "-t", 1) as one:
        yield one


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def check_arguments(arguments: Any) -> None:
    assert arguments["city"] in ("Bonn", "Ulm")
    assert 1 <= arguments["days"] <= 9
    assert arguments.keys() == {"city", "days"}


def test_a_tool_is_called_with_arguments_of_its_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=ASKED,
        tools=[TOOL],
        tool_choice="required",
        temperature=0.9,
        max_tokens=400,
        seed=1,
        parallel_tool_calls=False,
        extra_body=QUIET,
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"
    assert call.id
    check_arguments(json.loads(call.function.arguments))


def test_a_streamed_call_has_its_name_once_and_its_arguments_in_pieces(client: openai.OpenAI) -> None:
    settings: Any = {
        "model": "tiny",
        "messages": ASKED,
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "temperature": 0.9,
        "max_tokens": 400,
        "seed": 1,
        "extra_body": QUIET,
    }
    whole = client.chat.completions.create(**settings)
    chunks = list(client.chat.completions.create(**settings, stream=True))
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [delta.function.name for delta in deltas if delta.function and delta.function.name] == ["weather"]
    assert len([delta.id for delta in deltas if delta.id]) == 1
    arguments = "".join(delta.function.arguments or "" for delta in deltas if delta.function)
    assert len(deltas) > 3
    calls: Any = whole.choices[0].message.tool_calls
    assert arguments == calls[0].function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_calls_and_results_go_back_into_the_conversation(server: Server, client: openai.OpenAI) -> None:
    messages: Any = [
        *ASKED,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": None, "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": None, "content": "rain"},
    ]
    prompt = httpx.post(f"{server.url}/apply-template", json={"messages": messages, "tools": [TOOL]}).json()["prompt"]
    assert '"arguments": {"city": "Ulm"}' in prompt
    assert "<|tool|>rain<|assistant|>" in prompt
    assert client.chat.completions.create(model="tiny", messages=messages, max_tokens=3).choices


def test_anthropic_gets_a_tool_use_block(server: Server) -> None:
    claude = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)
    tool: Any = {"name": "weather", "description": "The weather.", "input_schema": SCHEMA}
    settings: Any = {
        "model": "tiny",
        "max_tokens": 400,
        "messages": ASKED,
        "tools": [tool],
        "thinking": {"type": "disabled"},
        "tool_choice": {"type": "tool", "name": "weather"},
        "extra_body": {"temperature": 0},
    }
    whole = claude.messages.create(**settings)
    (block,) = whole.content
    assert (block.type, whole.stop_reason) == ("tool_use", "tool_use")
    check_arguments(block.input)
    with claude.messages.stream(**settings) as stream:
        kinds = [event.type for event in stream]
        (streamed,) = stream.get_final_message().content
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 1
    assert streamed.type == "tool_use"
    assert streamed.input == block.input
    results: Any = [
        *ASKED,
        {"role": "assistant", "content": [block.model_dump(include={"type", "id", "name", "input"})]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block.id, "content": "rain"}]},
    ]
    assert claude.messages.create(model="tiny", max_tokens=3, messages=results, tools=[tool]).content is not None


def test_a_response_has_a_function_call_item(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", **FUNCTION, "strict": True}
    settings: Any = {
        "model": "tiny",
        "input": "Weather?",
        "tools": [tool],
        "tool_choice": "required",
        "max_output_tokens": 400,
        "temperature": 0,
        "parallel_tool_calls": False,
        "reasoning": {"effort": "none"},
    }
    answer = client.responses.create(**settings)
    (item,) = answer.output
    assert item.type == "function_call"
    check_arguments(json.loads(item.arguments))
    with client.responses.stream(**settings) as stream:
        events = list(stream)
        final = stream.get_final_response()
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(pieces) == item.arguments
    assert [one.type for one in final.output] == ["function_call"]


def test_ollama_gets_its_calls_as_objects(server: Server) -> None:
    client = ollama.Client(server.url)
    called = 0
    for seed in range(4):
        settings: Any = {
            "model": "tiny",
            "messages": ASKED,
            "tools": [TOOL],
            "options": {"temperature": 1, "seed": seed, "num_predict": 100},
            "think": False,
            "format": {"enum": ["never text"]},  # either this text or a call: the tiny model would never end another
        }
        whole = client.chat(**settings)
        pieces = list(client.chat(**settings, stream=True))
        calls = [call for piece in pieces for call in piece.message.tool_calls or []]
        assert [call.function for call in calls] == [call.function for call in whole.message.tool_calls or []]
        assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content
        assert whole.message.content in ("", '"never text"')
        assert pieces[-1].done
        for call in calls:
            assert call.function.name == "weather"
            assert call.function.arguments["city"] in ("Bonn", "Ulm")
            assert isinstance(call.function.arguments["days"], int)  # its client sends no bounds along
        called += len(calls)
    assert called


def test_a_call_that_is_cut_off_is_none(server: Server) -> None:
    claude = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)
    tool: Any = {"name": "weather", "input_schema": SCHEMA}
    settings: Any = {"messages": ASKED, "tools": [tool], "tool_choice": {"type": "any"}}
    answer = claude.messages.create(model="tiny", max_tokens=50, thinking={"type": "disabled"}, **settings)
    assert (answer.content, answer.stop_reason) == ([], "max_tokens")


def test_a_thought_is_no_content(server: Server, client: openai.OpenAI) -> None:
    prompt = "<|user|>x<|assistant|><think>"
    ids = httpx.post(f"{server.url}/tokenize", json={"content": prompt}).json()["tokens"]
    assert ids
    messages: Any = [{"role": "user", "content": "x"}]
    thought = httpx.post(f"{server.url}/tokenize", json={"content": "<think>hm, so</think>yes"}).json()["tokens"]
    body: Any = {"answer_token_ids": thought}
    answer: Any = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=4, temperature=0, extra_body=body
    )
    assert answer.choices[0].message.reasoning_content == "hm, so"
    assert answer.choices[0].message.content.startswith("yes")
    assert "think" not in answer.choices[0].message.content
    chunks: Any = list(
        client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=4, temperature=0, stream=True, extra_body=body
        )
    )
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "hm, so"
    assert "".join(delta.content or "" for delta in deltas) == answer.choices[0].message.content


def with_odd_tool(*, strict: bool) -> dict[str, Any]:
    """A tool whose schema has what no answer can be held to."""
    schema = {"type": "object", "properties": {"list": {"type": "array", "maxItems": 2, "items": {"type": "null"}}}}
    schema["properties"]["list"]["uniqueItems"] = True
    schema["required"] = ["list"]
    return {"tools": [{"type": "function", "function": {"name": "odd", "parameters": schema, "strict": strict}}]}


def test_a_keyword_that_cannot_be_held_to_is_passed_over_where_the_tool_is_not_strict(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=ASKED,
        max_tokens=300,
        temperature=0.9,
        seed=3,
        extra_body={**QUIET, **with_odd_tool(strict=False), "tool_choice": "required", "parallel_tool_calls": False},
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments)["list"] in ([], [None], [None, None])  # pyright: ignore


MISTRAL = (
    "{% for tool in tools or [] %}[AVAILABLE]{{ tool | tojson }}{% endfor %}{% for m in messages %}[{{ m.role }}]"
    "{{ m.content }}{% for call in m.tool_calls or [] %}[TOOL_CALLS]{{ call.function.name }}[ARGS]"
    "{{ call.function.arguments | tojson }}{% endfor %}{{ m.tool_call_id or '' }}{% endfor %}"
)


def test_tags_that_are_special_tokens_are_read_and_never_shown(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tags", template=MISTRAL, special=["[TOOL_CALLS]", "[ARGS]"])
    with Server("-m", model, "--served-model-name", "tiny", "-t", 1) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        asked: Any = {"model": "tiny", "messages": ASKED, "tools": [TOOL], "max_tokens": 300, "temperature": 0.9}
        asked |= {"seed": 1, "tool_choice": "required", "parallel_tool_calls": False}
        choice = client.chat.completions.create(**asked).choices[0]
        (call,) = choice.message.tool_calls or []
        assert choice.message.content is None
        assert len(call.id) == 9
        check_arguments(json.loads(call.function.arguments))  # pyright: ignore[reportAttributeAccessIssue]
        deltas = [chunk.choices[0].delta for chunk in client.chat.completions.create(**asked, stream=True)]
        assert "".join(delta.content or "" for delta in deltas) == ""
        pieces = [one.function for delta in deltas for one in delta.tool_calls or [] if one.function]
        assert [one.name for one in pieces if one.name] == ["weather"]
        assert "".join(one.arguments or "" for one in pieces) == call.function.arguments  # pyright: ignore


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (with_odd_tool(strict=True), "schema of the tool odd has keywords .* uniqueItems"),
        ({"tool_choice": "required"}, "tool_choice needs tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "a function needs a name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "no tool 'other'"),
        ({"tools": [TOOL, TOOL]}, "two tools have one name"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
    ],
    ids=["strict", "none", "name", "other", "twice", "kind"],
)
def test_tools_that_cannot_be_called_are_refused(client: openai.OpenAI, body: Any, said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        client.chat.completions.create(model="tiny", messages=ASKED, extra_body=body)
