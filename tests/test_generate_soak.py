"""Everything at once: threads that add, cancel, read and leave, tight memory, an executor that fails now and then. Each
request ends once, with the tokens it has alone or a beginning of them, and nothing is left behind.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
from clairvoyant import Clairvoyant
from hash_executor import HashExecutor, LetterTokenizer
from reference import tiny

from pellucid.executor import Executor, StepInput
from pellucid.generate import Answer, DraftModel, Engine, Event, PromptLookup, Request, slots
from pellucid.model.executor import TorchExecutor
from pellucid.model.load import weights_of
from pellucid.native.build import compiler
from pellucid.sampling import GREEDY, SamplingParams

CLIENTS = 4


class Fault(RuntimeError):
    """What the executor says when it fails here."""


class Faulty:
    """An executor that now and then fails, sometimes with slots emptied as the protocol allows, or has no memory."""

    def __init__(self, executor: Any, chance: random.Random, often: float) -> None:
        self._executor, self._chance, self._often = executor, chance, often
        self.faults = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def step(self, inputs: Sequence[StepInput]) -> Any:
        self._fail(inputs)
        return self._executor.step(inputs)

    def allocate(self, capacity: int) -> int:
        self._fail((), MemoryError("none left, it says"))
        return self._executor.allocate(capacity)

    def fork(self, slot: int, capacity: int, length: int | None = None) -> int:
        self._fail((), MemoryError("none left, it says"))
        return self._executor.fork(slot, capacity, length)

    def _fail(self, inputs: Sequence[StepInput], error: Exception | None = None) -> None:
        if self._chance.random() < self._often:
            self.faults += 1
            for entry in inputs:
                if self._chance.random() < 0.3:
                    self._executor.truncate(entry.slot, 0)
            raise error or Fault("now and then")


@cache
def native(which: str) -> Executor:
    """The one that is shaken, or the one that says what is right."""
    from pellucid.native.executor import NativeExecutor

    return NativeExecutor(tiny("llama").config, dict(weights_of(tiny("llama"))), threads=2, flags=("-O1",))


def make(kind: str, which: str = "shaken") -> Any:
    if kind == "torch":
        return TorchExecutor(tiny("llama"))
    if kind == "native":
        if compiler() is None:
            pytest.skip("no C compiler; install gcc or clang, or `pip install ziglang`")
        return native(which)
    return HashExecutor(200, splits_matter=kind == "hash where splits matter")


class Soak:
    def __init__(self, kind: str, seed: int, number: int) -> None:
        self.chance, self.kind, self.number = random.Random(seed), kind, number
        chance, self.executor = self.chance, make(kind)
        self.real = "hash" not in kind
        self.size = self.executor.config.vocab_size
        self.context = 60 if self.real else 120
        self.chunk = chance.choice((3, 4, 8))
        often = chance.choice((0.0, 0.01, 0.05))
        self.faulty = Faulty(self.executor, random.Random(seed + 1), often)
        self.asked: dict[int, Request] = {}
        self.read: dict[int, list[Event]] = {}  # of streams, that their readers left or read to the end
        self.events: list[Event] = []
        self.asking = threading.Lock()
        self.known: dict[Any, tuple[Answer, ...]] = {}
        self.engine = Engine(
            self.faulty,  # type: ignore[arg-type]
            None if self.real else LetterTokenizer(),  # type: ignore[arg-type]
            prefill_chunk=self.chunk,
            max_batch=chance.choice((3, 5, 16)),
            context_len=self.context,
            memory=int(self.executor.bytes_of(self.context) * chance.choice((1, 1.5, 3, 20))),
            kept_memory=chance.choice((None, 0)),
            reuse=chance.random() < 0.8,
            speculate=chance.choice((None, PromptLookup(4), self.draft(), Clairvoyant(self.alone))),
        )

    def draft(self) -> DraftModel:
        executor = TorchExecutor(tiny("llama")) if self.real else HashExecutor(200, splits_matter=False)
        return DraftModel(Faulty(executor, random.Random(5), 0.01))  # type: ignore[arg-type]

    def alone(self, request: Request) -> tuple[Answer, ...]:
        key = (request.prompt_ids, request.max_new_tokens, request.n, request.logprobs, repr(request.sampling))
        if key not in self.known:
            executor, tokenizer = make(self.kind, "alone"), self.engine.tokenizer
            engine = Engine(executor, tokenizer, prefill_chunk=self.chunk, context_len=self.context, reuse=False)
            with self.asking:
                self.known[key] = engine.run([request])[0].answers
        return self.known[key]

    def request(self, chance: random.Random) -> Request:
        shared = [1, 2, 3, 1, 2, 3] * 4
        prompt = shared[: chance.randint(0, 24)] + [chance.randrange(1, self.size) for _ in range(chance.randint(1, 9))]
        return Request(
            prompt_ids=prompt,
            max_new_tokens=chance.randint(1, self.context - len(prompt)) if chance.random() < 0.5 else 3,
            sampling=chance.choice((GREEDY, SamplingParams(seed=len(prompt), temperature=2.0, repetition_penalty=1.2))),
            stop_token_ids=(),
            n=chance.choice((1, 1, 1, 2, 3)),
            logprobs=chance.choice((None, 1)),
            priority=chance.choice((0, 0, 0, -1, 1)),
        )

    def client(self, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(self.number // CLIENTS):
            request, fate = self.request(chance), chance.random()
            if fate < 0.2:
                self.stream(request, chance)
                continue
            request_id = self.engine.add(request)
            self.asked[request_id] = request
            if fate < 0.4:
                time.sleep(chance.random() * 0.004)
                self.engine.cancel(request_id)
            elif fate < 0.5:
                time.sleep(chance.random() * 0.004)

    def stream(self, request: Request, chance: random.Random) -> None:
        stream, heard, most = self.engine.stream(request), [], chance.choice((0, 1, 3, 1000))
        try:
            for event in stream:
                heard.append(event)
                if len(heard) >= most:
                    break
        except (Fault, MemoryError):  # it was this thread's step that failed
            return
        stream.close()
        for index in range(request.n):
            mine = [event for event in heard if event.index == index]
            self.check(request, index, mine)

    def serve(self, stop: threading.Event) -> None:
        while not stop.is_set() or self.engine.has_work:
            if self.engine.wait(0.01):
                try:
                    self.events += self.engine.step()
                except (Fault, MemoryError):
                    continue

    def check(self, request: Request, index: int, events: list[Event]) -> None:
        """What was told of one answer, to the end or a part of it."""
        expected = self.alone(request)[index]
        told = [event.token_id for event in events if event.token_id is not None]
        assert tuple(told) == expected.token_ids[: len(told)]
        if not events or (answer := events[-1].answer) is None:
            return
        assert sum(event.answer is not None for event in events) == 1
        assert "".join(event.text for event in events) == answer.text
        if answer.finish_reason == "length":
            assert (answer.token_ids, answer.text) == (expected.token_ids, expected.text)
            assert answer.logprobs == expected.logprobs
        elif answer.finish_reason == "error":
            assert isinstance(answer.error, (Fault, MemoryError)), answer.error
            assert self.faulty.faults
        else:
            assert answer.finish_reason == "cancelled"

    def run(self) -> None:
        stop, failed = threading.Event(), []

        def guarded(work: Callable[[], None]) -> None:
            try:
                work()
            except BaseException as error:
                failed.append(error)

        server = threading.Thread(target=guarded, args=(lambda: self.serve(stop),))
        seeds = [self.chance.randrange(2**30) for _ in range(CLIENTS)]
        works = [lambda seed=seed: self.client(seed) for seed in seeds]
        clients = [threading.Thread(target=guarded, args=(work,)) for work in works]
        for thread in (server, *clients):
            thread.start()
        for thread in clients:
            thread.join(120)
        stop.set()
        server.join(120)
        assert not failed, failed
        assert not any(thread.is_alive() for thread in (server, *clients))
        for request_id, request in self.asked.items():
            for index in range(request.n):
                mine = [event for event in self.events if (event.request_id, event.index) == (request_id, index)]
                assert mine, request
                assert mine[-1].answer is not None, "the last event is the end"
                self.check(request, index, mine)
        assert {event.request_id for event in self.events} <= self.asked.keys()
        assert self.engine.close() == []
        assert not self.executor.slots
        assert not len(self.engine._mail)


KINDS = ("hash", "hash where splits matter", "native", "torch")


@pytest.mark.usefixtures("private_cache")
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_happens_each_request_ends_once_as_it_would_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "SPARE", 8)
    for seed in range(3 if "hash" in kind else 1):
        Soak(kind, seed, 48).run()


@pytest.mark.slow
@pytest.mark.usefixtures("private_cache")
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_for_longer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "SPARE", 8)
    for seed in range(100, 130 if "hash" in kind else 108):
        Soak(kind, seed, 100).run()
