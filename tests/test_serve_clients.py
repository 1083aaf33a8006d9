"""Clients that speak OpenAI's and Ollama's APIs over their own layers, unmodified: the answer is the engine's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import TOOLS, Alone, Server, tiny_model

pytestmark = pytest.mark.slow

ASKED: Any = [{"role": "user", "content": "Hi"}]
QUIET: Any = {"chat_template_kwargs": {"enable_thinking": False}}
SCHEMA: Any = {"type": "object", "properties": {"city": {"enum": ["Bonn", "Ulm"]}}, "required": ["city"]}
TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": SCHEMA}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", template=TOOLS)


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with Server("-m", model, "--served-model-name", "tiny", "-t", 1) as one:
        yield one


@pytest.fixture(scope="module")
def alone(model: Path) -> Alone:
    return Alone(model)


def answered(alone: Alone, **settings: Any) -> str:
    ids = alone.tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False, **settings)
    return alone.answer(ids, 20).text.strip()


@pytest.fixture(scope="module")
def text(alone: Alone) -> str:
    return answered(alone, **QUIET["chat_template_kwargs"])


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "ollama_chat"])
def test_litellm(server: Server, text: str, provider: str) -> None:
    import litellm  # pyright: ignore[reportMissingImports]

    base = server.url if provider == "ollama_chat" else f"{server.url}/v1"
    more: Any = {"think": False} if provider == "ollama_chat" else {"extra_body": QUIET}
    settings: Any = {
        "model": f"{provider}/tiny",
        "api_base": base,
        "api_key": "none",
        "messages": ASKED,
        "temperature": 0,
        "max_tokens": 20,
        **more,
    }
    whole: Any = litellm.completion(**settings)
    assert whole.choices[0].message.content.strip() == text
    assert whole.usage.completion_tokens == 20
    pieces: Any = litellm.completion(**settings, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces).strip() == text


def test_litellm_calls_a_tool(server: Server) -> None:
    import litellm  # pyright: ignore[reportMissingImports]

    answer: Any = litellm.completion(
        model="openai/tiny",
        api_base=f"{server.url}/v1",
        api_key="none",
        messages=ASKED,
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        max_tokens=300,
        extra_body=QUIET,
    )
    (call,) = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["city"] in ("Bonn", "Ulm")


def test_langchain(server: Server, text: str) -> None:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings  # pyright: ignore[reportMissingImports]

    settings: Any = {"model": "tiny", "base_url": f"{server.url}/v1", "api_key": "none"}
    chat: Any = ChatOpenAI(**{**settings, "temperature": 0, "max_tokens": 20}, extra_body=QUIET)
    assert chat.invoke("Hi").content.strip() == text
    assert "".join(piece.content for piece in chat.stream("Hi")).strip() == text
    assert [one.content.strip() for one in chat.batch(["Hi", "Hi"])] == [text] * 2
    longer: Any = ChatOpenAI(**{**settings, "temperature": 1, "max_tokens": 300, "seed": 1}, extra_body=QUIET)
    called = longer.bind_tools([TOOL], tool_choice="weather").invoke("Weather?")
    assert called.tool_calls[0]["args"]["city"] in ("Bonn", "Ulm")
    held = longer.with_structured_output({"title": "place", **SCHEMA}, method="json_schema").invoke("Where?")
    assert held["city"] in ("Bonn", "Ulm")
    where: Any = {"base_url": f"{server.url}/v1", "api_key": "none"}
    embeddings: Any = OpenAIEmbeddings(model="tiny", check_embedding_ctx_length=False, **where)
    assert len(embeddings.embed_query("a text")) == 32


def test_llm(server: Server, alone: Alone, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: tiny\n  model_name: tiny\n  api_base: {server.url}/v1\n"
    )
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}
    words = ["-m", "tiny", "-o", "temperature", "0", "-o", "max_tokens", "20", "Hi"]
    for streaming in ([], ["--no-stream"]):
        run = subprocess.run(
            [sys.executable, "-m", "llm", *words, *streaming],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip() == answered(alone)
