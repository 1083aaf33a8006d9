"""A server holds up: crashes, clients that leave, do not read or ask too much, and its own end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from conftest import absent
from hash_executor import HashExecutor, LetterTokenizer
from serving import Server as Program
from serving import tiny_model

from pellucid.generate.engine import Engine
from pellucid.generate.request import Request
from pellucid.serve.app import create_app
from pellucid.serve.http.server import Server, bounded, listen
from pellucid.serve.http.stream import Streamed
from pellucid.serve.settings import Settings
from pellucid.serve.work.models import Model, Models

CONTEXT = 400
LONG = {"prompt": [3, 4, 5], "max_tokens": 300, "temperature": 0, "ignore_eos": True}


class Served:
    """A server in a thread of this process, of a model that is a hash; each opening of it is kept in ``executors``."""

    def __init__(self, seconds_per_step: float = 0.0, max_batch: int = 4, models: int = 1, **settings: Any) -> None:
        self.executors: list[HashExecutor] = []
        self.seconds, self.max_batch, self.num_models = seconds_per_step, max_batch, models
        self.keep_alive = settings.pop("keep_alive", None)
        self.settings = Settings(port=0, **settings)
        self.steps = 0
        self.fault: Callable[[], None] = lambda: None

    def _open(self) -> Any:
        executor = HashExecutor(CONTEXT)
        executor.before_step = lambda inputs: self._before_step()
        self.executors.append(executor)
        tokenizer: Any = LetterTokenizer()
        tokenizer.chat_template = None
        engine = Engine(executor, tokenizer, max_batch=self.max_batch)
        return SimpleNamespace(checkpoint=SimpleNamespace(config=executor.config), tokenizer=tokenizer, engine=engine)

    def _before_step(self) -> None:
        self.steps += 1
        time.sleep(self.seconds)
        self.fault()

    def _create(self) -> Any:
        models = [
            Model(f"hash{number}", self._open, max_batch=self.max_batch, keep_alive=self.keep_alive)
            for number in range(self.num_models)
        ]
        self.models = Models(models)
        return create_app(self.models, self.settings)

    def __enter__(self) -> Served:
        self.socket = listen(self.settings)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.port = self.socket.getsockname()[1]
        app = self._create()
        config = uvicorn.Config(
            app,
            http=bounded(self.settings),
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="critical",
            h11_max_incomplete_event_size=self.settings.max_header,
            timeout_graceful_shutdown=5,
        )
        self.server = Server(config, app, self.settings)
        self.thread = threading.Thread(target=lambda: self.server.run(sockets=[self.socket]))
        self.thread.start()
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)
        wait_for(lambda: self.get("/health") == 200)
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive(), "the server did not end"

    def get(self, path: str) -> int:
        with contextlib.suppress(httpx.HTTPError):
            return self.http.get(path).status_code
        return 0

    def ask(self, **body: Any) -> httpx.Response:
        return self.http.post("/v1/completions", json={**LONG, **body})

    def connect(self, body: dict[str, Any], path: str = "/v1/completions") -> socket.socket:
        """A request over a socket of its own, sent."""
        content = json.dumps(body).encode()
        one = socket.create_connection(("127.0.0.1", self.port))
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
        one.sendall(head.encode() + content)
        return one

    @property
    def in_line(self) -> int:
        return sum(model.worker.in_line for model in self.models.models if model.worker is not None)


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.005)


def expected(max_tokens: int, prompt: tuple[int, ...] = (3, 4, 5)) -> str:
    """The text, computed alone."""
    tokenizer: Any = LetterTokenizer()
    engine = Engine(HashExecutor(CONTEXT), tokenizer)
    request = Request(prompt_ids=prompt, max_new_tokens=max_tokens, stop_token_ids=())
    return engine.run([request])[0].text


# --- the executor fails ---


def test_a_failed_step_ends_its_requests_and_the_next_is_answered() -> None:
    with Served() as served:

        def fault() -> None:
            if served.steps == 5:
                raise RuntimeError("a bit fell over")

        served.fault = fault
        failed = served.ask(max_tokens=20)
        assert failed.status_code == 500
        assert "a bit fell over" in failed.json()["error"]["message"]
        assert served.ask(max_tokens=20).json()["choices"][0]["text"] == expected(20)
        assert len(served.executors) == 1


def test_an_executor_that_keeps_failing_is_opened_anew_and_who_waits_is_answered() -> None:
    with Served(max_batch=1) as served:
        broken = threading.Event()

        def fault() -> None:
            if broken.is_set() and len(served.executors) == 1:
                raise RuntimeError("gone for good")

        served.fault = fault
        with served.http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as running:
            lines = running.iter_lines()
            next(lines)
            waiting: list[Any] = []
            asking = threading.Thread(target=lambda: waiting.append(served.ask(max_tokens=9, prompt=[7, 8])))
            asking.start()
            wait_for(lambda: served.in_line == 2)
            broken.set()
            told = [one for one in lines if one]
        asking.join(20)
        assert "gone for good" in json.loads(told[-2].removeprefix("data: "))["error"]["message"]
        assert told[-1] == "data: [DONE]"
        assert waiting[0].json()["choices"][0]["text"] == expected(9, (7, 8))
        assert len(served.executors) == 2
        metrics = served.http.get("/metrics").text
        assert 'pellucid_restarts_total{model="hash0"} 1' in metrics


# --- clients that leave, or do not take what they asked for ---


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_that_leaves_costs_one_more_step(stream: bool) -> None:
    with Served(seconds_per_step=0.02) as served:
        one = served.connect({**LONG, "stream": stream})
        wait_for(lambda: served.steps > 10)
        one.close()
        left = served.steps
        wait_for(lambda: served.in_line == 0)
        time.sleep(0.1)
        assert served.steps <= left + 3
        assert served.ask(max_tokens=5).json()["choices"][0]["text"] == expected(5)


def test_a_stream_that_nobody_began_to_read_is_closed() -> None:
    async def leave_at_once() -> tuple[bool, bool]:
        began, closed = False, False

        async def pieces() -> AsyncGenerator[bytes]:
            nonlocal began
            began = True
            yield b"x"

        class Owner:
            async def close(self) -> None:
                nonlocal closed
                closed = True

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            await asyncio.sleep(9)

        await Streamed(pieces(), Owner())({"type": "http"}, receive, send)
        return began, closed

    assert asyncio.run(leave_at_once()) == (False, True)


def test_a_client_that_does_not_read_delays_nobody_and_is_dropped() -> None:
    with Served(write_timeout=0.5) as served:
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", served.port))
        deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 4)
        assert served.ask(max_tokens=20).json()["choices"][0]["text"] == expected(20)
        wait_for(lambda: len(served.server.server_state.connections) == 1, 5)
        deaf.close()


def test_half_a_head_and_half_a_body_are_not_waited_for() -> None:
    with Served(read_timeout=0.3) as served:
        for begun in (
            b"POST /v1/comp",
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
        ):
            with socket.create_connection(("127.0.0.1", served.port)) as one:
                one.sendall(begun)
                one.settimeout(5)
                received = one.recv(4096)
                assert received == b"" or b"408" in received


def test_what_is_too_large_is_refused_before_it_is_read() -> None:
    with Served(max_body=1000, max_header=4000) as served:
        assert served.http.post("/v1/completions", content=b"x" * 2000).status_code == 413
        assert served.http.post("/v1/completions", content=iter([b"x" * 600] * 2)).status_code == 413
        with socket.create_connection(("127.0.0.1", served.port)) as one:
            one.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 9000)
            assert one.recv(4096).startswith(b"HTTP/1.1 400 ")
        assert served.get("/health") == 200


def test_a_full_line_says_when_to_come_again() -> None:
    with Served(seconds_per_step=0.01, max_batch=1, max_queue=1) as served:
        sockets = [served.connect(LONG), served.connect(LONG)]
        wait_for(lambda: served.in_line == 2)
        refused = served.ask()
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["code"] == "queue_full"
        for one in sockets:
            one.close()
        wait_for(lambda: served.in_line == 0)
        assert served.ask(max_tokens=3).status_code == 200


def test_an_answer_that_takes_too_long_is_told_so() -> None:
    with Served(seconds_per_step=0.02, deadline=0.3) as served:
        late = served.ask()
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "timeout"
        lines = [one for one in served.ask(stream=True).text.splitlines() if one]
        assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "timeout"
        assert len(lines) > 4
        wait_for(lambda: served.in_line == 0)
        assert served.ask(timeout=0.05).status_code == 504


def test_two_hundred_idle_connections_are_no_burden() -> None:
    with Served() as served:
        idle = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(200)]
        assert served.ask(max_tokens=20).json()["choices"][0]["text"] == expected(20)
        for one in idle:
            one.close()


# --- models come and go ---


def test_a_model_is_loaded_when_asked_for_and_given_back() -> None:
    with Served(models=2, keep_alive=0.2) as served:
        assert len(served.executors) == 1, "the first is loaded at the start"
        assert served.ask(model="hash1", max_tokens=5).json()["model"] == "hash1"
        assert len(served.executors) == 2
        second = served.models.models[1]
        wait_for(lambda: second.worker is None)
        assert not served.executors[1].slots, "its slots are given back"
        assert served.ask(model="hash1", max_tokens=5).json()["choices"][0]["text"] == expected(5)
        assert len(served.executors) == 3


def test_a_request_may_say_how_long_its_model_stays() -> None:
    with Served() as served:
        served.http.post("/api/generate", json={"model": "hash0", "keep_alive": 0})
        wait_for(lambda: served.models.models[0].worker is None)
        served.http.post("/api/generate", json={"model": "hash0", "keep_alive": "1h30m"})
        assert served.models.models[0].stays == 5400


def test_a_model_that_cannot_be_loaded_is_told_and_tried_again() -> None:
    served = Served(models=2)
    whole = served._open

    def missing() -> Any:
        if not served.executors:
            return whole()
        raise MemoryError("no room")

    served._open = missing
    with served:
        refused = served.ask(model="hash1")
        assert refused.status_code == 503
        assert "no room" in refused.json()["error"]["message"]
        served.models.models[1].open = whole
        assert served.ask(model="hash1", max_tokens=2).status_code == 200


# --- who may ask ---


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8080"}, 403),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "box.lan"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://good.example"}, 200),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
    ],
    ids=str,
)
def test_a_page_elsewhere_may_not_ask(guarded: Served, headers: dict[str, str], status: int) -> None:
    assert guarded.http.get("/v1/models", headers=headers).status_code == status


def test_a_page_that_may_ask_is_answered_with_its_origin(guarded: Served) -> None:
    asked = {"Origin": "https://good.example", "Access-Control-Request-Method": "POST"}
    allowed = guarded.http.options("/v1/chat/completions", headers={**asked, "Access-Control-Request-Headers": "x-a"})
    assert allowed.status_code == 204
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://good.example"
    assert allowed.headers["Access-Control-Allow-Headers"] == "x-a"
    answer = guarded.http.get("/v1/models", headers={"Origin": "https://good.example"})
    assert answer.headers["Access-Control-Allow-Origin"] == "https://good.example"
    assert guarded.http.options("/v1/models", headers={**asked, "Origin": "https://evil.example"}).status_code == 403


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    with Served(allowed_hosts=("box.lan",), cors_origins=("https://good.example",)) as served:
        yield served


# --- its own end ---


def test_running_answers_finish_when_the_server_is_told_to_end() -> None:
    with (
        Served(seconds_per_step=0.01) as served,
        served.http.stream("POST", "/v1/completions", json={**LONG, "max_tokens": 60, "stream": True}) as running,
    ):
        lines = running.iter_lines()
        next(lines)
        served.server.should_exit = True
        told = [json.loads(one[6:]) for one in lines if one and "[DONE]" not in one]
        assert told[-1]["choices"][0]["finish_reason"] == "length"


def test_answers_that_outlast_the_grace_are_told() -> None:
    with (
        Served(seconds_per_step=0.05, grace=0.3) as served,
        served.http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as running,
    ):
        lines = running.iter_lines()
        next(lines)
        served.server.should_exit = True
        told = [one for one in lines if one]
        assert "the server is ending" in told[-2]


def test_a_program_speaks_tls_and_ends_by_a_signal(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        absent("no openssl, which makes the certificate: install openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", *words, *names, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    model = tiny_model(tmp_path / "tiny")
    with Program("-m", model, "-t", 1, "--ssl-certfile", certificate, "--ssl-keyfile", key) as program:
        assert program.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=str(certificate))
        body = {"prompt": "x", "max_tokens": 2}
        assert httpx.post(f"{program.url}/v1/completions", json=body, verify=trusted).status_code == 200
        assert program.end() == 0
        assert "Traceback" not in program.log


def test_a_first_model_that_is_not_there_ends_the_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pellucid", "serve", "-m", str(tmp_path / "none"), "--port", "0", "--offline"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert "Error: " in run.stderr
    assert str(tmp_path / "none") in run.stderr
    assert "Traceback" not in run.stderr


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Exception, match=f"127.0.0.1:{port} cannot be listened on"):
            listen(Settings(port=port))


def test_many_at_once_are_each_answered_as_alone() -> None:
    async def ask_all(url: str) -> list[str]:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            prompts = [[1 + number % 20, 2, 3 + number % 7] for number in range(60)]
            answers = [
                client.post("/v1/completions", json={**LONG, "prompt": one, "max_tokens": 12}) for one in prompts
            ]
            return [answer.json()["choices"][0]["text"] for answer in await asyncio.gather(*answers)]

    with Served() as served:
        texts = asyncio.run(ask_all(f"http://127.0.0.1:{served.port}"))
    assert texts == [expected(12, (1 + number % 20, 2, 3 + number % 7)) for number in range(60)]
