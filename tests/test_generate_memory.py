"""Memory is counted: what fits runs, the rest waits, the youngest gives way and goes on later with the same tokens; and
what fails costs nobody else.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from hash_executor import HashExecutor, LetterTokenizer
from reference import tiny

from pellucid.base.errors import ConfigError, DeadlineError, RequestError
from pellucid.base.memory import available_memory, bytes_of
from pellucid.executor import Executor, StepInput
from pellucid.generate import Answer, DraftModel, Engine, Event, PromptLookup, Request, core, slots
from pellucid.generate.engine import LEAST_CONTEXT
from pellucid.generate.scheduler import PATIENCE
from pellucid.model.batched.executor import BatchedExecutor
from pellucid.model.cache import Cache
from pellucid.model.executor import TorchExecutor
from pellucid.model.load import weights_of
from pellucid.native.build import compiler
from pellucid.sampling import GREEDY, SamplingParams


def engine_of(executor: HashExecutor, **options: Any) -> Engine:
    return Engine(executor, LetterTokenizer(), **options)  # type: ignore[arg-type]


def ask(prompt: Sequence[int], max_new_tokens: int = 5, **options: Any) -> Request:
    return Request(
        **{"prompt_ids": prompt, "max_new_tokens": max_new_tokens, "sampling": GREEDY, "stop_token_ids": (), **options}
    )


def alone(request: Request, **options: Any) -> tuple[Answer, ...]:
    return Engine(HashExecutor(1000, **options), LetterTokenizer(), reuse=False).run([request])[0].answers  # type: ignore[arg-type]


def tokens(answers: Sequence[Answer]) -> list[tuple[int, ...]]:
    return [answer.token_ids for answer in answers]


# --- worked examples ---


def test_what_fits_runs_and_the_rest_waits_for_it() -> None:
    executor = HashExecutor(splits_matter=False)
    engine = engine_of(executor, memory=64)  # for three of these
    together = 0

    def watch(inputs: Sequence[StepInput]) -> None:
        nonlocal together
        together = max(together, len(inputs))
        assert sum(executor.capacity.values()) <= 64

    executor.before_step = watch
    requests = [ask([token] * 10, 10) for token in range(1, 11)]
    for request, result in zip(requests, engine.run(requests), strict=True):
        assert tokens(result.answers) == tokens(alone(request, splits_matter=False))
    assert together == 3


@pytest.mark.parametrize("splits_matter", [False, True])
def test_the_youngest_gives_its_slot_up_and_goes_on_with_the_same_tokens(
    monkeypatch: pytest.MonkeyPatch, splits_matter: bool
) -> None:
    monkeypatch.setattr(slots, "SPARE", 4)
    executor = HashExecutor(1000, splits_matter=splits_matter)
    engine = engine_of(executor, memory=100, context_len=100, prefill_chunk=4)
    drawn = SamplingParams(seed=3, temperature=2.0, repetition_penalty=1.2)
    requests = [ask([token] * 7, 60, n=1 + token % 2, sampling=drawn if token > 2 else GREEDY) for token in range(1, 5)]
    ended: list[int] = []
    ids = [engine.add(request) for request in requests]
    answers: dict[tuple[int, int], Answer] = {}
    while engine.has_work:
        assert sum(executor.capacity.values()) <= 100
        for event in engine.step():
            if event.answer is not None:
                ended.append(event.request_id)
                answers[event.request_id, event.index] = event.answer
    assert engine._core.preempted > 0
    assert ended[0] == ids[0], "the oldest always goes on"
    for request_id, request in zip(ids, requests, strict=True):
        fresh = HashExecutor(1000, splits_matter=splits_matter)
        expected = engine_of(fresh, reuse=False, prefill_chunk=4).run([request])[0]
        assert [answers[request_id, i].token_ids for i in range(request.n)] == tokens(expected.answers)
        assert [answers[request_id, i].text for i in range(request.n)] == [one.text for one in expected.answers]


@pytest.mark.parametrize("kind", ["torch", "native"])
@pytest.mark.usefixtures("private_cache")
@pytest.mark.parametrize("model", ["llama", "qwen2"])
def test_a_preempted_answer_is_the_same_bit_for_bit(kind: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log-probabilities as floats, too. qwen2 has a sliding window."""
    if kind == "native" and compiler() is None:
        pytest.skip("no C compiler; install gcc or clang, or `pip install ziglang`")
    monkeypatch.setattr(slots, "SPARE", 8)
    executor: Any = TorchExecutor(tiny(model))
    if kind == "native":
        from pellucid.native.executor import NativeExecutor

        executor = NativeExecutor(tiny(model).config, dict(weights_of(tiny(model))), threads=2, flags=("-O1",))
        monkeypatch.setattr(executor, "bytes_of", TorchExecutor(tiny(model)).bytes_of)  # which grows token by token
    requests = [ask(range(5 + i, 17 + 2 * i), 24, logprobs=2, n=1 + i % 2) for i in range(5)]
    expected = [Engine(executor, prefill_chunk=4, reuse=False).run([request])[0].answers for request in requests]
    engine = Engine(executor, prefill_chunk=4, memory=executor.bytes_of(90), context_len=64)
    for answers, result in zip(expected, engine.run(requests), strict=True):
        assert [(one.token_ids, one.logprobs) for one in result.answers] == [
            (one.token_ids, one.logprobs) for one in answers
        ]
    assert engine._core.preempted > 0
    engine.close()
    assert not executor.slots


def test_a_context_that_memory_has_no_room_for_is_shortened_aloud_or_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = engine_of(HashExecutor(1000), memory=300)
    assert engine.context_len == 300
    assert "there is no memory for 1,000" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="at most 300 tokens"):
        engine_of(HashExecutor(1000), memory=300, context_len=400)
    with pytest.raises(ConfigError, match="no memory"):
        engine_of(HashExecutor(1000), memory=1)
    poor = HashExecutor(5000)
    poor.free_bytes = -5
    assert engine_of(poor).context_len == LEAST_CONTEXT, "and not refused"
    with pytest.raises(RequestError, match="memory is out of range"):
        engine_of(HashExecutor(), memory=-1)


# --- who comes first ---


def order_of_beginnings(engine: Engine) -> list[int]:
    begun: dict[int, None] = {}
    while engine.has_work:
        begun |= dict.fromkeys(event.request_id for event in engine.step())
    return list(begun)


def test_a_small_request_passes_one_that_does_not_fit_but_not_for_ever() -> None:
    executor = HashExecutor(1000, splits_matter=False)
    engine = engine_of(executor, memory=100, context_len=100, kept_memory=0)
    engine.add(ask([1] * 10, 30))
    engine.step()
    large = engine.add(ask([2] * 10, 80))
    small = [engine.add(ask([3, token], 2)) for token in range(1, 25)]
    begun = order_of_beginnings(engine)
    assert begun.index(large) - begun.index(small[0]) == PATIENCE, "so many passed it"
    assert begun.index(large) < begun.index(small[-1])


def test_priorities_and_deadlines() -> None:
    executor = HashExecutor(1000, splits_matter=False)
    engine = engine_of(executor, max_batch=1)
    first = engine.add(ask([1], 20, priority=1))
    engine.step()
    later = [engine.add(ask([2], 5, priority=1)), engine.add(ask([3], 5)), engine.add(ask([4], 5, priority=-1))]
    late = engine.add(ask([5], 5, deadline=1e-9))
    events: list[Event] = []
    while engine.has_work:
        events += engine.step()
    ends = [event for event in events if event.answer is not None]
    assert [event.request_id for event in ends] == [late, later[2], later[1], first, later[0]]
    assert isinstance(ends[0].answer and ends[0].answer.error, DeadlineError)
    assert ends[3].answer is not None
    assert ends[3].answer.token_ids == alone(ask([1], 20), splits_matter=False)[0].token_ids
    wrongs: list[dict[str, Any]] = [{"priority": 1.5}, {"deadline": 0}, {"deadline": float("nan")}]
    for wrong in wrongs:
        with pytest.raises(RequestError, match=next(iter(wrong))):
            Request(prompt_ids=[1], **wrong)


# --- failures ---


def test_a_prompt_that_fails_ends_alone_and_the_answers_beside_it_go_on() -> None:
    executor = HashExecutor(splits_matter=False)
    engine = engine_of(executor, speculate=PromptLookup())
    writing = [ask([3, 1, 3, 1], 12), ask([4, 4, 4], 12)]
    ids = [engine.add(request) for request in writing]
    engine.step()

    def fail(inputs: Sequence[StepInput]) -> None:
        if any(9 in entry.token_ids and len(entry.token_ids) > 3 for entry in inputs):
            raise MemoryError("activations")

    executor.before_step = fail
    bad, good = engine.add(ask([9, 9, 9, 9, 9])), engine.add(ask([5, 5], 4))
    ends: dict[int, Answer] = {}
    while engine.has_work:
        ends |= {event.request_id: event.answer for event in engine.step() if event.answer is not None}
    assert isinstance(ends[bad].error, MemoryError)
    for request_id, request in zip([*ids, good], [*writing, ask([5, 5], 4)], strict=True):
        assert ends[request_id].token_ids == alone(request, splits_matter=False)[0].token_ids
    engine.forget()
    assert not executor.slots


def test_slots_that_a_failed_step_emptied_are_computed_again() -> None:
    executor = HashExecutor()
    engine = engine_of(executor, prefill_chunk=4)
    requests = [ask([token] * 6, 10) for token in (1, 2, 3)]
    ids = [engine.add(request) for request in requests]
    for _ in range(5):
        engine.step()

    def fail(inputs: Sequence[StepInput]) -> None:
        executor.before_step = lambda inputs: None
        for entry in inputs[:2]:
            executor.truncate(entry.slot, 0)
        raise RuntimeError("a kernel failed")

    executor.before_step = fail
    ends: dict[int, Answer] = {}
    while engine.has_work:
        ends |= {event.request_id: event.answer for event in engine.step() if event.answer is not None}
    for request_id, request in zip(ids, requests, strict=True):
        expected = engine_of(HashExecutor(), prefill_chunk=4, reuse=False).run([request])[0]
        assert ends[request_id].token_ids == expected.token_ids


@pytest.mark.parametrize("when", [3, 7, 20])
def test_a_draft_that_fails_only_stops_guessing(when: int, capsys: pytest.CaptureFixture[str]) -> None:
    draft = HashExecutor(splits_matter=False)

    def fail(inputs: Sequence[StepInput]) -> None:
        if draft.steps == when:
            raise RuntimeError(f"the draft fell over {when}")

    draft.before_step = fail
    executor = HashExecutor(splits_matter=False)
    engine = engine_of(executor, speculate=DraftModel(draft))
    requests = [ask([3, 1], 30), ask([4, 4, 4], 30)]
    for request, result in zip(requests, engine.run(requests), strict=True):
        assert tokens(result.answers) == tokens(alone(request, splits_matter=False))
    assert f"the draft fell over {when}" in capsys.readouterr().err
    assert not draft.slots


ROOM = Path(core.__file__).parent


@pytest.mark.parametrize("stride", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_ctrl_c_at_any_line_leaks_nothing_and_each_request_ends_once(stride: int) -> None:
    """The interruption comes at the lines of the engine's in turn: of answers beside each other, a fork, a reuse."""
    for place in itertools.count(1, stride):
        executor = HashExecutor(splits_matter=False)
        engine = engine_of(executor, memory=64, prefill_chunk=4, speculate=PromptLookup(2))
        engine.run([ask([1, 2, 3, 4, 5, 6], 3)])
        before = engine.add(ask([1, 2, 3, 4, 5, 9], 4, n=2))
        other = engine.add(ask([7, 7, 7, 7], 4))
        events: list[Event] = []
        if not interrupted(place, lambda engine=engine, events=events: stepping(engine, events)):
            break
        stepping(engine, events)
        ends = sorted((event.request_id, event.index) for event in events if event.answer is not None)
        assert ends == [(before, 0), (before, 1), (other, 0)], f"line {place}"
        engine.forget()
        assert not executor.slots, f"line {place}"
        assert tokens(engine.run([ask([7, 7, 7, 7], 4)])[0].answers) == tokens(
            alone(ask([7, 7, 7, 7], 4), splits_matter=False)
        )
    assert place > 1000


def stepping(engine: Engine, events: list[Event]) -> None:
    while engine.has_work:
        events += engine.step()


def interrupted(place: int, work: Callable[[], None]) -> bool:
    """Whether Ctrl-C came, at the place-th line of ``generate/`` that runs within a step."""
    left = place

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if Path(frame.f_code.co_filename).parent != ROOM:
            return None
        if frame.f_code.co_name in HANDLING or (
            frame.f_code.co_name == "step" and "engine" in frame.f_code.co_filename
        ):
            return None  # what runs between steps, and what is done about an interruption
        if event == "line":
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


HANDLING = {"_working", "has_work", "reclaim"}


# --- amounts ---


def test_torch_counts_what_its_caches_hold() -> None:
    for model in ("llama", "qwen2", "mamba2", "deepseek_v3", "gemma4_text"):
        config = tiny(model).config
        for capacity in (1, 10, 200):
            cache = Cache(config, 1, capacity, torch.float32)
            held = [tensor for state in cache.layers for tensor in tensors(state)]
            assert TorchExecutor(tiny(model)).bytes_of(capacity) == sum(one.nbytes for one in held), model


def test_pools_never_take_more_than_is_counted() -> None:
    for model in ("llama", "qwen2", "mamba2"):
        executor = BatchedExecutor(tiny(model))
        for number in range(1, 8):
            executor.allocate(300)
            held = sum(array.nbytes for pool in executor._pools.values() for by in pool.arrays for array in by.values())
            assert number * executor.bytes_of(300) // 2 <= held <= number * executor.bytes_of(300), model


def test_pools_tell_hidden_states_too() -> None:
    engine, plain = Engine(BatchedExecutor(tiny("llama"))), Engine(TorchExecutor(tiny("llama")))
    prompts = [[5, 17, 3, 88], [9], [41, 7, 2]]
    np.testing.assert_allclose(engine.embed(prompts, "mean"), plain.embed(prompts, "mean"), rtol=1e-4, atol=1e-5)


def tensors(state: Any) -> list[torch.Tensor]:
    if hasattr(state, "config") and hasattr(state.config, "state_shapes"):
        return [state[name] for name in state.config.state_shapes]
    return [value for value in vars(state).values() if isinstance(value, torch.Tensor)]


@pytest.mark.usefixtures("private_cache")
@pytest.mark.skipif(compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`")
def test_native_counts_a_slot_before_it_is_there() -> None:
    from pellucid.native.executor import NativeExecutor

    executor = NativeExecutor(tiny("llama").config, dict(weights_of(tiny("llama"))), threads=2, flags=("-O1",))
    for capacity in (1, 100, 512, 513, 5000):
        slot = executor.allocate(capacity)
        there = executor._library.pellucid_slot_bytes(executor._slots[slot].handle)
        assert there < executor.bytes_of(capacity) < there + 10_000 + 8 * capacity
        executor.free(slot)
    assert 0 < executor.free_bytes <= available_memory()


def test_amounts_of_memory_as_people_write_them() -> None:
    assert [bytes_of(text) for text in ("6G", "512M", "1.5g", "100", "2KiB", "1 MB")] == [
        6 * 2**30, 512 * 2**20, 3 * 2**29, 100, 2048, 2**20,
    ]  # fmt: skip
    for wrong in ("", "G", "-1G", "much", "0", "nan"):
        with pytest.raises(ValueError, match="no amount of memory"):
            bytes_of(wrong)
    assert 2**20 < available_memory() < 2**50


_: Executor = HashExecutor()  # for pyright: it keeps to the protocol
