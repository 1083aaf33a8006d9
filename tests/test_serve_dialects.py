"""Anthropic's and Ollama's APIs by their own clients, and llama-server's small paths; beside the engine's answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import ollama
import pytest
from serving import SPECIAL, Alone, Server, tiny_model

ASKED: Any = [{"role": "user", "content": "Hi there"}]
WITH_SYSTEM = [{"role": "system", "content": "S"}, *ASKED]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def alone(model: Path) -> Alone:
    return Alone(model)


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with Server("-m", model, "--served-model-name", "tiny", "-t", 1, "--api-key", "k1", "--api-key", "k2") as one:
        yield one


@pytest.fixture(scope="module")
def claude(server: Server) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key="k2", max_retries=0)


@pytest.fixture(scope="module")
def llama(server: Server) -> ollama.Client:
    return ollama.Client(server.url, headers={"Authorization": "Bearer k1"})


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"Authorization": "Bearer k1"}) as one:
        yield one


# --- Anthropic ---


def test_a_message_is_the_engines_answer(claude: anthropic.Anthropic, alone: Alone) -> None:
    expected = alone.answer(alone.chat_ids(WITH_SYSTEM), 20)
    answer = claude.messages.create(
        model="tiny", max_tokens=20, system="S", messages=ASKED, extra_body={"temperature": 0}
    )
    block = answer.content[0]
    assert block.type == "text"
    assert block.text == expected.text
    assert answer.stop_reason == "max_tokens"
    usage = answer.usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == len(alone.chat_ids(WITH_SYSTEM))
    assert usage.output_tokens == 20


def test_a_streamed_message_is_the_same(claude: anthropic.Anthropic, alone: Alone) -> None:
    expected = alone.answer(alone.chat_ids(ASKED), 20)
    blocks: Any = [{"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]}]
    with claude.messages.stream(model="tiny", max_tokens=20, messages=blocks, extra_body={"temperature": 0}) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == expected.text
    assert final.usage.output_tokens == 20
    assert final.stop_reason == "max_tokens"


def test_more_tokens_than_fit_are_a_bound_that_is_met(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(
        model="tiny", max_tokens=20_000, messages=ASKED, stop_sequences=["a"], extra_body={"temperature": 0}
    )
    assert answer.stop_reason in ("stop_sequence", "end_turn", "model_context_window_exceeded")
    assert (answer.stop_reason == "stop_sequence") == (answer.stop_sequence == "a")


def test_the_tokens_of_a_conversation_are_counted(claude: anthropic.Anthropic, alone: Alone) -> None:
    counted = claude.messages.count_tokens(model="tiny", system="S", messages=ASKED)
    assert counted.input_tokens == len(alone.chat_ids(WITH_SYSTEM))


def test_anthropics_errors_are_anthropics(claude: anthropic.Anthropic, server: Server) -> None:
    with pytest.raises(anthropic.NotFoundError, match="here: 'tiny'"):
        claude.messages.create(model="opus", max_tokens=1, messages=ASKED)
    images: Any = [{"role": "user", "content": [{"type": "image", "source": {}}]}]
    with pytest.raises(anthropic.BadRequestError, match="'image' cannot be read here"):
        claude.messages.create(model="tiny", max_tokens=1, messages=images)
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0).models.list()


# --- Ollama ---


def test_ollamas_chat_is_the_engines_answer(llama: ollama.Client, alone: Alone) -> None:
    expected = alone.answer(alone.chat_ids(WITH_SYSTEM), 20)
    options = {"temperature": 0, "num_predict": 20}
    whole = llama.chat("tiny", messages=WITH_SYSTEM, options=options)
    assert whole.message.content == expected.text
    assert (whole.done, whole.done_reason, whole.eval_count) == (True, "length", 20)
    assert whole.prompt_eval_count == len(alone.chat_ids(WITH_SYSTEM))
    pieces = list(llama.chat("tiny:latest", messages=WITH_SYSTEM, options=options, stream=True))
    assert "".join(piece.message.content or "" for piece in pieces) == expected.text
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_ollama_generates_from_a_template_or_from_the_raw_text(llama: ollama.Client, alone: Alone) -> None:
    options = {"temperature": 0, "num_predict": 10}
    chat = alone.answer(alone.chat_ids(WITH_SYSTEM), 10).text
    assert llama.generate("tiny", "Hi there", system="S", options=options).response == chat
    raw = alone.answer(alone.tokenizer.encode("Hi there"), 10).text
    assert llama.generate("tiny", "Hi there", raw=True, options=options).response == raw


def test_ollamas_answer_is_held_to_its_format(llama: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    answer = llama.chat("tiny", messages=ASKED, format=schema, options={"num_predict": 200, "seed": 1})
    assert json.loads(answer.message.content or "")["a"] in (1, 2)


def test_ollama_lists_shows_and_knows_what_is_loaded(llama: ollama.Client) -> None:
    assert [one.model for one in llama.list().models] == ["tiny"]
    assert [one.model for one in llama.ps().models] == ["tiny"]
    shown = llama.show("tiny")
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 2048
    assert shown.template is not None
    assert "message.role" in shown.template


def test_ollamas_errors_are_ollamas(llama: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="here: 'tiny'") as refused:
        llama.chat("llama9", messages=ASKED)
    assert refused.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="mirostat: '1' cannot be followed here"):
        llama.chat("tiny", messages=ASKED, options={"mirostat": 1})


# --- llama-server ---


def test_texts_become_tokens_and_come_back(http: httpx.Client, alone: Alone) -> None:
    text = "Grüße, 世界"
    answer = http.post("/tokenize", json={"content": text}).json()
    assert answer["tokens"] == alone.tokenizer.encode(text, add_special_tokens=False)
    assert http.post("/detokenize", json={"tokens": answer["tokens"]}).json()["content"] == text
    pieces = http.post("/tokenize", json={"content": "ab", "with_pieces": True}).json()["tokens"]
    assert [one["piece"] for one in pieces] == ["a", "b"]
    chat = http.post("/tokenize", json={"messages": ASKED}).json()
    assert chat["tokens"] == alone.chat_ids(ASKED)


def test_a_template_is_applied(http: httpx.Client) -> None:
    prompt = http.post("/apply-template", json={"messages": ASKED}).json()["prompt"]
    assert prompt == f"{SPECIAL[1]}Hi there{SPECIAL[2]}"


def test_props_say_what_is_served(http: httpx.Client, model: Path) -> None:
    props = http.get("/props").json()
    assert (props["total_slots"], props["default_generation_settings"]["n_ctx"]) == (16, 2048)
    assert props["model_path"] == str(model)


def test_metrics_count_tokens(http: httpx.Client, server: Server) -> None:
    key = {"authorization": "Bearer k1"}
    before = server.metric("new_tokens_total", **key)
    http.post("/v1/completions", json={"prompt": "x", "max_tokens": 7, "ignore_eos": True})
    assert server.metric("new_tokens_total", **key) == before + 7


def test_a_key_is_asked_for_everywhere_but_of_health(server: Server) -> None:
    for path in ("/v1/models", "/api/tags", "/metrics", "/props", "/openapi.json", "/nowhere"):
        assert httpx.get(server.url + path).status_code == 401
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
