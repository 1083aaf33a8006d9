"""OpenAI's API over HTTP, asked by OpenAI's own client; every answer is compared with the engine's, computed here."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from serving import Alone, Server, tiny_model

from pellucid.sampling import SamplingParams

MESSAGES: Any = [{"role": "system", "content": "Short."}, {"role": "user", "content": "Hello, 世界!"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def alone(model: Path) -> Alone:
    return Alone(model)


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with Server("-m", model, "--served-model-name", "tiny", "-t", 1) as one:
        yield one


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_a_chat_is_answered_as_the_engine_answers_it(client: openai.OpenAI, alone: Alone) -> None:
    ids = alone.chat_ids(MESSAGES)
    expected = alone.answer(ids, 24)
    extra = {"return_token_ids": True}
    answer: Any = client.chat.completions.create(
        model="tiny", messages=MESSAGES, temperature=0, max_tokens=24, extra_body=extra
    )
    assert answer.choices[0].message.content == expected.text
    assert (answer.choices[0].token_ids, answer.prompt_token_ids) == (list(expected.token_ids), ids)
    assert answer.choices[0].finish_reason == expected.finish_reason
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), len(expected.token_ids))
    assert answer.timings["predicted_n"] == len(expected.token_ids)


def test_streamed_pieces_join_to_the_whole_answer(client: openai.OpenAI, alone: Alone) -> None:
    expected = alone.answer(alone.chat_ids(MESSAGES), 40)
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=MESSAGES,
            temperature=0,
            max_completion_tokens=40,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"return_token_ids": True},
        )
    )
    deltas: list[Any] = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in deltas) == expected.text
    assert [token for choice in deltas for token in getattr(choice, "token_ids", None) or ()] == list(
        expected.token_ids
    )
    assert [choice.delta.role for choice in deltas].count("assistant") == 1
    assert [choice.finish_reason for choice in deltas if choice.finish_reason] == [expected.finish_reason]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(expected.token_ids)
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_prompts_prefix_is_reused_and_said_to_be(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "a long beginning, all the same " * 8}]
    first = client.chat.completions.create(model="tiny", messages=messages, max_tokens=2, temperature=0)
    again = client.chat.completions.create(model="tiny", messages=messages, max_tokens=2, temperature=0)
    assert first.usage is not None
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1
    assert first.choices[0].message.content == again.choices[0].message.content


def test_choices_are_drawn_from_the_seed_as_the_engine_draws_them(client: openai.OpenAI, alone: Alone) -> None:
    sampling = SamplingParams(temperature=0.8, top_p=0.9, top_k=40, seed=7)
    request = {"prompt_ids": alone.tokenizer.encode("Once"), "max_new_tokens": 12, "sampling": sampling}
    expected = [one.text for one in alone.engine.run([alone.request(n=3, **request)])[0].answers]
    answer = client.completions.create(
        model="tiny", prompt="Once", max_tokens=12, temperature=0.8, top_p=0.9, seed=7, n=3, extra_body={"top_k": 40}
    )
    assert [choice.text for choice in answer.choices] == expected
    assert len(set(expected)) > 1


def test_texts_and_ids_are_continued_side_by_side(client: openai.OpenAI, alone: Alone) -> None:
    prompts = [[5, 6, 7], [40, 41], [200]]
    expected = [alone.answer(ids, 9) for ids in prompts]
    answer: Any = client.completions.create(model="tiny", prompt=prompts, max_tokens=9, temperature=0)
    assert [choice.text for choice in answer.choices] == [one.text for one in expected]
    assert answer.usage.prompt_tokens == 6
    streamed: dict[int, str] = {}
    for chunk in client.completions.create(model="tiny", prompt=prompts, max_tokens=9, temperature=0, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] = streamed.get(choice.index, "") + choice.text
    assert [streamed[place] for place in range(3)] == [one.text for one in expected]


def test_log_probabilities_are_the_engines(client: openai.OpenAI, alone: Alone) -> None:
    expected = alone.answer(alone.chat_ids(MESSAGES), 6, logprobs=3)
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, temperature=0, max_tokens=6, logprobs=True, top_logprobs=3
    )
    assert answer.choices[0].logprobs is not None
    told = answer.choices[0].logprobs.content or []
    assert [one.logprob for one in told] == pytest.approx([one.logprob for one in expected.logprobs])
    assert [[top.logprob for top in one.top_logprobs] for one in told] == [
        pytest.approx([value for _, value in one.top]) for one in expected.logprobs
    ]
    assert all(one.bytes is None or bytes(one.bytes).decode("utf-8", "replace") == one.token for one in told)


def test_an_echoed_prompt_comes_with_its_log_probabilities(client: openai.OpenAI, alone: Alone) -> None:
    ids = alone.tokenizer.encode("abcde")
    expected = alone.answer(ids, 2, logprobs=0, prompt_logprobs=0)
    answer = client.completions.create(model="tiny", prompt="abcde", max_tokens=2, temperature=0, echo=True, logprobs=0)
    told = answer.choices[0].logprobs
    assert answer.choices[0].text == "abcde" + expected.text
    assert told is not None
    assert told.tokens is not None
    assert told.tokens[:5] == list("abcde")
    assert told.token_logprobs is not None
    assert told.token_logprobs[0] is None
    values = [one.logprob for one in (*expected.prompt_logprobs[1:], *expected.logprobs)]
    assert told.token_logprobs[1:] == pytest.approx(values)


def test_an_answer_ends_before_a_stop_string(client: openai.OpenAI, alone: Alone) -> None:
    text = alone.answer(alone.chat_ids(MESSAGES), 30).text
    stop = text[5:7]
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0, max_tokens=30, stop=[stop])
    assert answer.choices[0].message.content == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_an_answer_is_held_to_its_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["cat", "dog"]}, "legs": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["kind", "legs"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "animal", "schema": schema, "strict": True}}
    for seed in range(3):
        answer = client.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=300, seed=seed, temperature=0.7, response_format=form
        )
        animal = json.loads(answer.choices[0].message.content or "")
        assert animal["kind"] in ("cat", "dog")
        assert 0 <= animal["legs"] <= 9
        assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("form", "allowed"),
    [
        ({"structured_outputs": {"choice": ["ja", "nein", "a.b"]}}, {"ja", "nein", "a.b"}),
        ({"structured_outputs": {"regex": "[0-9]{3}"}}, {str(number).zfill(3) for number in range(1000)}),
        ({"grammar": 'root ::= "x" | "y"'}, {"x", "y"}),
    ],
    ids=["choice", "regex", "grammar"],
)
def test_an_answer_is_held_to_a_form(client: openai.OpenAI, form: Any, allowed: set[str]) -> None:
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=50, extra_body=form)
    assert answer.choices[0].message.content in allowed


def test_embeddings_are_the_hidden_states_of_the_engine(client: openai.OpenAI, alone: Alone) -> None:
    texts = ["a cat", "another, longer text"]
    expected = alone.engine.embed([alone.tokenizer.encode(text) for text in texts], "mean")
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    answer = client.embeddings.create(model="tiny", input=texts)  # the client asks for base64
    assert np.allclose([one.embedding for one in answer.data], expected, atol=1e-6)
    plain = client.embeddings.create(model="tiny", input=texts[0], encoding_format="float")
    assert np.allclose(plain.data[0].embedding, expected[0], atol=1e-6)
    assert plain.usage.prompt_tokens == 5


def test_a_response_is_the_same_answer_in_items(client: openai.OpenAI, alone: Alone) -> None:
    expected = alone.answer(alone.chat_ids([{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}]), 60)
    settings: Any = {"model": "tiny", "instructions": "S", "temperature": 0, "max_output_tokens": 60}
    answer = client.responses.create(input="Hi", **settings)
    assert answer.output_text == expected.text
    assert answer.status == ("completed" if expected.finish_reason == "stop" else "incomplete")
    items: Any = [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]
    events: list[Any] = list(client.responses.create(input=items, stream=True, **settings))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == expected.text
    assert events[-1].type == f"response.{answer.status}"
    assert events[-1].response.output_text == expected.text


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="'gpt-9' does not exist; here: 'tiny'"):
        client.models.retrieve("gpt-9")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("temprature", 1, "Unknown parameter: 'temprature'. Did you mean 'temperature'?"),
        ("temperature", 3, "temperature: expected at most 2, received 3"),
        ("temperature", "hot", "temperature: expected number or null, received 'hot'"),
        ("max_tokens", 99999, "a prompt of .* tokens and max_new_tokens=99999 exceed the context"),
        ("messages", [{"content": "x"}], r"Missing required parameter: 'messages\[0\].role'"),
        ("messages", [{"role": "user", "content": [{"type": "image_url"}]}], "'image_url' cannot be read here"),
        ("logit_bias", {"x": 1}, "logit_bias: 'x' is no token id"),
        ("modalities", ["audio"], "modalities: .* cannot be followed here"),
        ("top_logprobs", 2, "top_logprobs needs logprobs"),
        ("reasoning_effort", "high", "this model's template knows no thinking"),
        ("n", 17, "n of at most max_batch = 16"),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": {"type": "nope"}}}, "schema"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_what_cannot_be_asked_is_refused_by_name(client: openai.OpenAI, field: str, value: Any, said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as refused:
        client.chat.completions.create(model="tiny", messages=MESSAGES, extra_body={field: value})
    assert refused.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    "body", [b"{", b"[1]", b"\xff", b'{"messages": NaN}', b"[" * 5000, b'{"n": ' + b"9" * 5000 + b"}"]
)
def test_what_is_no_request_is_refused(server: Server, body: bytes) -> None:
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_vector_in_base64_is_the_same_numbers(server: Server) -> None:
    body = {"input": "x", "encoding_format": "base64"}
    packed = httpx.post(f"{server.url}/v1/embeddings", json=body).json()["data"][0]["embedding"]
    plain = httpx.post(f"{server.url}/v1/embeddings", json={"input": "x"}).json()["data"][0]["embedding"]
    assert np.array_equal(np.frombuffer(base64.b64decode(packed), "<f4"), np.array(plain, "<f4"))
