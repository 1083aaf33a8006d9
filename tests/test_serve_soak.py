"""Mixed requests, 64 at a time, with faults among them: every answer is whole and the one computed alone, nothing is
lost, and memory stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from serving import TOOLS, Alone, Server, tiny_model

from pellucid.sampling import GREEDY, SamplingParams

AT_A_TIME = 64
QUIET: dict[str, Any] = {"enable_thinking": False}
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]},
    },
}


@dataclass(frozen=True)
class Case:
    """A prompt and its one right answer."""

    ids: tuple[int, ...]
    max_tokens: int
    seed: int | None
    text: str
    finish: str
    message: str | None = None  # where the prompt is a chat

    @property
    def choosing(self) -> dict[str, Any]:
        return {"temperature": 0} if self.seed is None else {"temperature": 0.8, "seed": self.seed}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", template=TOOLS)


@pytest.fixture(scope="module")
def cases(model: Path) -> list[Case]:
    """Prompts that share beginnings, short and long, greedy and drawn, each answered alone."""
    alone, rng, made = Alone(model), random.Random(0), []
    beginning = "the same system prompt for all who ask. " * 4
    for number in range(48):
        message = (beginning if number % 2 else "") + "".join(rng.choices("abc é世", k=rng.choice([3, 30, 200])))
        seed = None if number % 3 else number
        chat = number % 4 == 0
        if chat:
            ids = alone.tokenizer.apply_chat_template(
                [{"role": "user", "content": message}], add_generation_prompt=True, return_dict=False, **QUIET
            )
        else:
            ids = alone.tokenizer.encode(message)
        sampling = GREEDY if seed is None else SamplingParams(temperature=0.8, seed=seed)
        tokens = rng.choice([1, 5, 20, 60])
        answer = alone.answer(ids, tokens, sampling)
        text = answer.text.strip() if chat else answer.text
        made.append(Case(tuple(ids), tokens, seed, text, answer.finish_reason, message if chat else None))
    return made


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with Server("-m", model, "--served-model-name", "tiny", "-t", 1) as one:
        yield one


class Soak:
    """A client of many minds; ``wrong`` holds what was not as it should be."""

    def __init__(self, server: Server, cases: list[Case], seed: int) -> None:
        self.server, self.cases, self.rng = server, cases, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.memory: list[int] = []
        self.kinds = [
            *[self.whole, self.streamed, self.chat, self.chat_streamed, self.ollama, self.anthropic] * 3,
            *[
                self.leaves,
                self.half_closed,
                self.slow,
                self.no_json,
                self.huge,
                self.leaves_in_call,
                self.closes_early,
            ],
        ]

    async def run(self, num_requests: int) -> None:
        left = iter(range(num_requests))
        limits = httpx.Limits(max_connections=AT_A_TIME)
        async with httpx.AsyncClient(base_url=self.server.url, limits=limits, timeout=120) as self.http:
            await asyncio.gather(*(self._asker(left, num_requests) for _ in range(AT_A_TIME)))

    async def _asker(self, left: Iterator[int], num_requests: int) -> None:
        for number in left:
            if number % max(num_requests // 10, 1) == 0:
                self.memory.append(self.server.memory())
            kind = self.rng.choice(self.kinds)
            try:
                await kind(self.rng.choice(self.cases))
            except Exception as error:
                self.wrong.append(f"{kind.__name__}: {type(error).__name__}: {error}")
            self.counts[kind.__name__] += 1

    def check(self, case: Case, text: str, finish: str | None, what: str) -> None:
        if text != case.text or finish != case.finish:
            self.wrong.append(f"{what}: {case.text!r} {case.finish}, received {text!r} {finish}")

    # --- who asks and waits ---

    def _completion(self, case: Case, **more: Any) -> dict[str, Any]:
        return {"model": "tiny", "prompt": list(case.ids), "max_tokens": case.max_tokens, **case.choosing, **more}

    def _plain(self, case: Case) -> Case:
        return case if case.message is None else self.cases[1]

    def _chat(self, case: Case) -> Case:
        return case if case.message is not None else self.cases[0]

    async def whole(self, case: Case) -> None:
        case = self._plain(case)
        answer = (await self.http.post("/v1/completions", json=self._completion(case))).json()["choices"][0]
        self.check(case, answer["text"], answer["finish_reason"], "whole")

    async def streamed(self, case: Case, pause: float = 0.0) -> None:
        case, text, finish = self._plain(case), "", None
        async with self.http.stream("POST", "/v1/completions", json=self._completion(case, stream=True)) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    choice = json.loads(line[6:])["choices"][0]
                    text, finish = text + choice["text"], choice["finish_reason"] or finish
                    await asyncio.sleep(pause)
        self.check(case, text, finish, "streamed")

    async def slow(self, case: Case) -> None:
        await self.streamed(case, pause=0.01)

    def _chat_body(self, case: Case, **more: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": case.message}]
        body = {"model": "tiny", "messages": messages, "max_tokens": case.max_tokens, **case.choosing, **more}
        return {**body, "chat_template_kwargs": QUIET}

    async def chat(self, case: Case) -> None:
        case = self._chat(case)
        answer = (await self.http.post("/v1/chat/completions", json=self._chat_body(case))).json()["choices"][0]
        self.check(case, answer["message"]["content"].strip(), answer["finish_reason"], "chat")

    async def chat_streamed(self, case: Case) -> None:
        case, text, finish = self._chat(case), "", None
        body = self._chat_body(case, stream=True)
        async with self.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    choice = json.loads(line[6:])["choices"][0]
                    text, finish = text + choice["delta"].get("content", ""), choice["finish_reason"] or finish
        self.check(case, text.strip(), finish, "chat_streamed")

    async def ollama(self, case: Case) -> None:
        case, text = self._chat(case), ""
        options = {"num_predict": case.max_tokens, **case.choosing}
        messages = [{"role": "user", "content": case.message}]
        body = {"model": "tiny", "messages": messages, "options": options, "think": False}
        async with self.http.stream("POST", "/api/chat", json=body) as answer:
            lines = [json.loads(line) async for line in answer.aiter_lines()]
        text = "".join(line["message"]["content"] for line in lines)
        self.check(case, text.strip(), lines[-1]["done_reason"], "ollama")

    async def anthropic(self, case: Case) -> None:
        case = next(one for one in self.cases if one.message is not None and one.seed is None)
        body = {
            "model": "tiny",
            "max_tokens": case.max_tokens,
            "messages": [{"role": "user", "content": case.message}],
            "temperature": 0,
            "thinking": {"type": "disabled"},
        }
        answer = (await self.http.post("/v1/messages", json=body)).json()
        finish = {"max_tokens": "length", "end_turn": "stop"}[answer["stop_reason"]]
        self.check(case, "".join(block["text"] for block in answer["content"]).strip(), finish, "anthropic")

    # --- who does not behave ---

    async def leaves(self, case: Case) -> None:
        body = self._completion(case, stream=True, ignore_eos=True) | {"max_tokens": 500}
        async with self.http.stream("POST", "/v1/completions", json=body) as answer:
            async for _ in answer.aiter_lines():
                break

    async def leaves_in_call(self, case: Case) -> None:
        body = self._chat_body(self._chat(case), stream=True, tools=[TOOL], tool_choice="required") | {
            "max_tokens": 500
        }
        async with self.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if "tool_calls" in line:
                    break

    async def _raw(self, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        place = urlsplit(self.server.url)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        return reader, writer

    async def half_closed(self, case: Case) -> None:
        reader, writer = await self._raw(json.dumps(self._completion(case)).encode())
        with contextlib.suppress(OSError):
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 60)
        writer.close()

    async def closes_early(self, case: Case) -> None:
        _, writer = await self._raw(json.dumps(self._completion(case)).encode())
        writer.transport.abort()

    async def no_json(self, case: Case) -> None:
        answer = await self.http.post("/v1/completions", content=b'{"prompt": [1, 2')
        if answer.status_code != 400:
            self.wrong.append(f"bad JSON: {answer.status_code}")

    async def huge(self, case: Case) -> None:
        answer = await self.http.post("/v1/completions", json={"prompt": "x" * 2**20, "max_tokens": 1})
        if answer.json()["error"]["code"] != "context_length_exceeded":
            self.wrong.append(f"a huge prompt: {answer.text[:200]}")


def soak(server: Server, cases: list[Case], num_requests: int, seed: int) -> Soak:
    one = Soak(server, cases, seed)
    asyncio.run(one.run(num_requests))
    assert not one.wrong, one.wrong[:5]
    assert one.counts.total() == num_requests
    assert len(one.counts) == 13
    quiet = [server.metric("answers_running"), server.metric("answers_waiting"), server.metric("failures_total")]
    for _ in range(100):
        if quiet[:2] == [0, 0]:
            break
        quiet[:2] = [server.metric("answers_running"), server.metric("answers_waiting")]
    assert quiet == [0, 0, 0], "somebody is still being answered, or a step failed"
    return one


def test_three_hundred_mixed_requests_are_each_answered_as_alone(server: Server, cases: list[Case]) -> None:
    soak(server, cases, 300, seed=1)


def test_in_torch_and_float32_too_each_is_answered_as_alone(model: Path) -> None:
    alone = Alone(model, "torch")
    prompts = [alone.tokenizer.encode("ab" * (1 + number % 9) + str(number)) for number in range(24)]

    async def ask_all(url: str) -> list[str]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            bodies = [{"prompt": ids, "max_tokens": 8, "temperature": 0} for ids in prompts]
            answers = await asyncio.gather(*(client.post("/v1/completions", json=body) for body in bodies))
            return [answer.json()["choices"][0]["text"] for answer in answers]

    with Server("-m", model, "--executor", "torch", "--dtype", "float32", "-t", 1) as server:
        texts = asyncio.run(ask_all(server.url))
    assert texts == [alone.answer(ids, 8).text for ids in prompts]


@pytest.mark.slow
def test_ten_thousand_mixed_requests_lose_nothing_and_leave_nothing(server: Server, cases: list[Case]) -> None:
    memory = soak(server, cases, 10_000, seed=2).memory
    print(f"resident MB: {[one >> 20 for one in memory]}")
    assert max(memory[-2:]) < max(memory[2:5]) + 32 * 2**20
