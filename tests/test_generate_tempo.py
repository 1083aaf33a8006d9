"""Prompts beside answers: a step takes no longer than it may, and small prompts do not wait for large ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hash_executor import HashExecutor, LetterTokenizer

from pellucid.base.errors import RequestError
from pellucid.executor import StepInput
from pellucid.generate import Engine, Request, core
from pellucid.generate.tempo import LEAST, Tempo
from pellucid.sampling import GREEDY

STEP, TOKEN = 0.010, 0.0002  # seconds of a step, and of each token of a prompt in it


class Clock:
    """A machine on which time passes with what is computed, and never else."""

    def __init__(self, executor: HashExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.steps = 0.0, []
        executor.before_step = self.compute
        monkeypatch.setattr(core.time, "perf_counter", lambda: self.now)

    def compute(self, inputs: Sequence[StepInput]) -> None:
        sizes = [len(entry.token_ids) for entry in inputs]
        prompts = sum(size for size in sizes if size > 1)
        self.steps.append((1 in sizes, prompts, sum(size > 1 for size in sizes)))
        self.now += STEP + TOKEN * prompts


def engine_of(executor: HashExecutor, **options: Any) -> Engine:
    return Engine(executor, LetterTokenizer(), **options)  # type: ignore[arg-type]


def ask(prompt: Sequence[int], max_new_tokens: int = 5, **options: Any) -> Request:
    return Request(
        **{"prompt_ids": prompt, "max_new_tokens": max_new_tokens, "sampling": GREEDY, "stop_token_ids": (), **options}
    )


@pytest.mark.parametrize(("step_seconds", "most"), [(None, 3 * STEP), (0.04, STEP + 0.04)])
def test_a_long_prompt_adds_no_more_to_a_step_than_it_may(
    step_seconds: float | None, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = HashExecutor(4000, splits_matter=False)
    clock, engine = Clock(executor, monkeypatch), engine_of(executor, step_seconds=step_seconds)
    engine.add(ask([3], 100))
    for _ in range(5):
        engine.step()
    clock.steps.clear()
    engine.add(ask([4] * 2000, 2))
    while engine.has_work:
        engine.step()
    beside = [prompts for answers, prompts, _ in clock.steps if answers and prompts]
    assert sum(beside) >= 1999
    assert STEP + TOKEN * max(beside) <= most * 1.05
    assert len(beside) <= 2000 * TOKEN / (most - STEP) * 1.3 + 3, "and not much less"


def test_where_splits_matter_whole_chunks_come_as_seldom_as_they_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = HashExecutor(4000)
    clock, engine = Clock(executor, monkeypatch), engine_of(executor)
    engine.add(ask([3], 100))
    for _ in range(5):
        engine.step()
    clock.steps.clear()
    request = ask([4] * 1000, 2)
    engine.add(request)
    while engine.has_work:
        engine.step()
    sizes = [prompts for answers, prompts, _ in clock.steps if answers and prompts]
    assert sizes == [128] * 7 + [1000 - 7 * 128]
    places = [place for place, (_, prompts, _) in enumerate(clock.steps) if prompts]
    assert min(later - earlier for earlier, later in pairwise(places[1:])) > 1


def test_small_prompts_pass_a_large_one_which_still_advances(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = HashExecutor(4000, splits_matter=False)
    clock, engine = Clock(executor, monkeypatch), engine_of(executor, prefill_chunk=100)
    large = engine.add(ask([4] * 2000, 2))
    small = [engine.add(ask([token] * 30, 2)) for token in (5, 6)]
    first: dict[int, int] = {}
    for place in range(100):
        for event in engine.step():
            first.setdefault(event.request_id, place)
    assert max(first[one] for one in small) <= 2
    assert first[large] > 10
    assert max(together for _, _, together in clock.steps) == 3, "slices of several prompts in a step"


def test_alone_a_prompt_is_not_held_up() -> None:
    executor = HashExecutor(4000, splits_matter=False)
    engine_of(executor).run([ask([4] * 2048, 1)])
    assert executor.steps == 4


def test_a_prompt_whose_every_place_is_scored_comes_in_small_slices() -> None:
    executor, sizes = HashExecutor(4000, splits_matter=False), []
    executor.before_step = lambda inputs: sizes.extend(len(entry.wanted) for entry in inputs)
    engine_of(executor).run([ask([4] * 300, 1, prompt_logprobs=0)])
    assert sizes == [64, 64, 64, 64, 44]


def test_the_tempo_follows_what_is_measured() -> None:
    tempo = Tempo()
    assert tempo.tokens() == 2 * LEAST, "nobody knows yet"
    for _ in range(50):
        tempo.measure(0.010, 4, 0)
        tempo.measure(0.010 + 64 * 0.0001, 4, 64)
    assert tempo.tokens() == pytest.approx(200, abs=2)
    for _ in range(50):
        tempo.measure(0.010 + 64 * 0.001, 4, 64)
    assert tempo.tokens() == LEAST, "slower than that would be a waste"
    assert Tempo(0.001, 0.01, 0.00001).tokens() == 100
    for wrong in (0, -1.0, float("nan"), "fast"):
        with pytest.raises(RequestError, match="step_seconds"):
            engine_of(HashExecutor(), step_seconds=wrong)
