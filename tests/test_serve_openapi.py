"""/openapi.json is true: it is the table that requests are checked by, and JSON Schema would check them alike."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Server, tiny_model

from pellucid.serve.apis import anthropic, ollama, openai_chat, openai_responses, openai_text
from pellucid.serve.app import create_app, operations
from pellucid.serve.http.errors import ApiError
from pellucid.serve.http.operation import openapi
from pellucid.serve.http.schema import check
from pellucid.serve.work.models import Model, Models

BODIES = {
    "chat": openai_chat.BODY,
    "text": openai_text.BODY,
    "responses": openai_responses.BODY,
    "messages": anthropic.BODY,
    "ollama": ollama.CHAT,
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats(-3, 3) | st.sampled_from(["", "a", "auto", "text"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "role", "content", "x"]), inner)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    with Server("-m", model, "--served-model-name", "tiny", "-t", 1, "-c", 64) as one:
        yield one


def test_the_description_is_openapi_and_names_every_path() -> None:
    document = openapi(operations(), "1", keyed=True)
    for operation in operations():
        described = document["paths"][operation.path.replace(":path", "")][operation.method.lower()]
        assert described["summary"]
        assert described["responses"]["200"]
        if operation.body is not None:
            jsonschema_rs.validator_for(dict(operation.body))  # raises where it is no schema
    assert json.loads(json.dumps(document)) == document


@pytest.mark.parametrize("name", BODIES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_bodies_are_checked_as_json_schema_would(name: str, data: st.DataObject) -> None:
    schema: Any = BODIES[name]
    field = data.draw(st.sampled_from(sorted(schema["properties"])))
    body = {field: data.draw(VALUES)}
    if jsonschema_rs.is_valid(schema, body):
        check(body, schema)
    else:
        with pytest.raises(ApiError) as refused:
            check(body, schema)
        assert refused.value.status == 400
        assert refused.value.message


def test_the_served_description_is_this_one() -> None:
    async def served() -> Any:
        app = create_app(Models([Model("none", lambda: pytest.fail("nobody asks for it"))]))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
            return (await client.get("/openapi.json")).json()

    assert asyncio.run(served())["paths"] == openapi(operations(), "1", False)["paths"]


@pytest.mark.slow
def test_schemathesis_finds_no_lie(server: Server, tmp_path: Path) -> None:
    """Every operation, with bodies that fit and that do not: statuses, content types and answers are as described, what
    does not fit is refused, and nothing is a failure of the server's.
    """
    config = '[checks]\nnot_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 504]\n'  # a deadline of no time
    (tmp_path / "schemathesis.toml").write_text(config)
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    checks += ",negative_data_rejection,unsupported_method"
    words = ["--checks", checks, "--phases", "coverage,fuzzing", "--max-examples", "10", "--seed", "1", "--no-color"]
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", *words]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
