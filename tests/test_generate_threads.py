"""One engine and many threads: anybody adds and cancels, one at a time steps, and whoever closes waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hash_executor import HashExecutor, LetterTokenizer
from reference import tiny

from pellucid.base.errors import RequestError
from pellucid.executor import StepInput
from pellucid.generate import Engine, Event, Request
from pellucid.model.executor import TorchExecutor
from pellucid.model.load import weights_of
from pellucid.native.build import compiler
from pellucid.sampling import GREEDY


def engine_of(executor: HashExecutor, **options: Any) -> Engine:
    return Engine(executor, LetterTokenizer(), **options)  # type: ignore[arg-type]


def ask(prompt: Sequence[int], max_new_tokens: int = 5, **options: Any) -> Request:
    return Request(
        **{"prompt_ids": prompt, "max_new_tokens": max_new_tokens, "sampling": GREEDY, "stop_token_ids": (), **options}
    )


def in_threads(*works: Any) -> None:
    failed: list[BaseException] = []

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if failed:
        raise failed[0]


def test_requests_added_and_cancelled_from_threads_each_end_once_with_the_tokens_they_have_alone() -> None:
    executor = HashExecutor(splits_matter=False)
    engine, asked, events, stop = engine_of(executor, max_batch=4), {}, [], threading.Event()

    def client(number: int) -> None:
        for turn in range(12):
            request = ask([number + 1, turn + 1, 7], 6)
            asked[request_id := engine.add(request)] = request
            if turn % 3 == 2:
                time.sleep(0.001)
                engine.cancel(request_id)

    def server() -> None:
        while not stop.is_set() or engine.has_work:
            if engine.wait(0.01):
                events.extend(engine.step())

    thread = threading.Thread(target=server)
    thread.start()
    in_threads(*(lambda number=number: client(number) for number in range(6)))
    stop.set()
    thread.join(60)
    ends = [event for event in events if event.answer is not None]
    assert sorted(event.request_id for event in ends) == sorted(asked) == list(range(72))
    for event in ends:
        (alone,) = engine_of(HashExecutor(splits_matter=False)).run([asked[event.request_id]])[0].answers
        assert event.answer is not None
        if event.finish_reason == "length":
            assert event.answer.token_ids == alone.token_ids
        else:
            assert event.finish_reason == "cancelled"
            assert event.answer.token_ids == alone.token_ids[: len(event.answer.token_ids)]
    engine.forget()
    assert not executor.slots


def test_streams_may_be_read_in_threads_of_their_own() -> None:
    engine, heard = engine_of(HashExecutor(splits_matter=False)), {}

    def read(number: int) -> None:
        heard[number] = [event.token_id for event in engine.stream(ask([number], 9))]

    in_threads(*(lambda number=number: read(number) for number in range(1, 9)))
    for number, tokens in heard.items():
        assert tuple(tokens) == engine_of(HashExecutor(splits_matter=False)).run([ask([number], 9)])[0].token_ids


def test_a_stream_that_is_closed_or_forgotten_before_its_first_event_leaves_nothing() -> None:
    executor = HashExecutor()
    engine = engine_of(executor)
    engine.stream(ask([1, 2])).close()
    assert not engine.has_work
    engine.stream(ask([1, 2]))  # nobody keeps it
    assert not engine.has_work
    stream = engine.stream(ask([1, 2], 30))
    other = engine.add(ask([3]))
    next(stream)
    del stream
    assert {event.request_id for event in drain(engine)} == {other}
    engine.forget()
    assert not executor.slots
    assert not engine._mail


def drain(engine: Engine) -> list[Event]:
    events = []
    while engine.has_work:
        events += engine.step()
    return events


def test_what_is_cancelled_while_a_step_runs_ends_after_it() -> None:
    executor = HashExecutor()
    engine, inside, go_on = engine_of(executor), threading.Event(), threading.Event()
    request_id = engine.add(ask([1, 2], 30))
    engine.step()

    def hold(inputs: Sequence[StepInput]) -> None:
        inside.set()
        assert go_on.wait(30)
        assert set(executor.slots) >= {entry.slot for entry in inputs}

    executor.before_step = hold
    events: list[Event] = []

    def cancel() -> None:
        inside.wait(30)
        engine.cancel(request_id)
        go_on.set()

    in_threads(lambda: events.extend(engine.step()), cancel)
    assert [event.answer for event in events] == [None]
    executor.before_step = lambda inputs: None
    assert [event.finish_reason for event in engine.step()] == ["cancelled"]
    assert not engine.has_work


def test_close_waits_for_the_step_tells_of_all_and_ends_the_engine() -> None:
    executor = HashExecutor()
    engine, inside = engine_of(executor, max_batch=1), threading.Event()
    ids = [engine.add(ask([token], 30)) for token in (1, 2)]
    stepped: list[str] = []

    def slow(inputs: Sequence[StepInput]) -> None:
        inside.set()
        time.sleep(0.05)
        stepped.append("to its end")

    executor.before_step = slow
    events: list[Event] = []

    def close() -> None:
        inside.wait(30)
        events.extend(engine.close())
        stepped.append("closed")

    in_threads(lambda: events.extend(engine.step()), close)
    assert stepped == ["to its end", "closed"]
    ends = [(event.request_id, event.finish_reason) for event in events if event.answer is not None]
    assert sorted(ends) == [(ids[0], "cancelled"), (ids[1], "cancelled")]
    assert not executor.slots
    for call in (lambda: engine.add(ask([1])), engine.step, lambda: engine.run([ask([1])])):
        with pytest.raises(RequestError, match="closed"):
            call()
    assert engine.close() == []


def test_a_step_within_a_step_is_refused() -> None:
    executor = HashExecutor()
    engine = engine_of(executor)
    executor.before_step = lambda inputs: print(engine.step())
    with pytest.raises(RequestError, match="in a step already"):
        engine.run([ask([1])])


# --- executors ---


@pytest.mark.parametrize("kind", ["torch", "native"])
@pytest.mark.usefixtures("private_cache")
def test_an_executor_serves_one_thread_at_a_time_and_none_once_it_is_closed(kind: str) -> None:
    if kind == "native" and compiler() is None:
        pytest.skip("no C compiler; install gcc or clang, or `pip install ziglang`")
    executor: Any = TorchExecutor(tiny("llama"))
    if kind == "native":
        from pellucid.native.executor import NativeExecutor

        executor = NativeExecutor(tiny("llama").config, dict(weights_of(tiny("llama"))), threads=2, flags=("-O1",))
    slot = executor.allocate(8)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with executor._busy:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    for call in (
        lambda: executor.step([StepInput(slot, [1], (0,))]),
        lambda: executor.hidden([StepInput(slot, [1], (0,))]),
        lambda: executor.free(slot),
        lambda: executor.allocate(8),
        lambda: executor.fork(slot, 8),
        lambda: executor.truncate(slot, 0),
    ):
        with pytest.raises(RequestError, match="another thread"):
            call()
    closing = threading.Thread(target=executor.close)
    closing.start()
    assert closing.is_alive(), "it waits"
    done.set()
    thread.join(30)
    closing.join(30)
    assert not executor.slots
    with pytest.raises(RequestError, match="closed"):
        executor.step([StepInput(slot, [1], (0,))])
    executor.close()


def test_torch_counts_its_slots() -> None:
    executor = TorchExecutor(tiny("llama"))
    slots = [executor.allocate(4), executor.allocate(4)]
    assert list(executor.slots) == slots
    executor.free(slots[0])
    assert list(executor.slots) == slots[1:]
    assert torch.is_tensor(executor.step([StepInput(slots[1], [1], (0,))]).tensor)
