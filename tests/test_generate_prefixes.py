"""What has been computed for one prompt serves all that begin alike: kept, running, about to be computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hash_executor import HashExecutor, LetterTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.executor import StepInput
from pellucid.generate import Answer, Engine, Request, slots
from pellucid.generate.prefixes import BLOCK, Prefixes, agreement
from pellucid.sampling import GREEDY


def engine_of(executor: HashExecutor, **options: Any) -> Engine:
    return Engine(executor, LetterTokenizer(), **options)  # type: ignore[arg-type]


def ask(prompt: Sequence[int], max_new_tokens: int = 5, **options: Any) -> Request:
    return Request(
        **{"prompt_ids": prompt, "max_new_tokens": max_new_tokens, "sampling": GREEDY, "stop_token_ids": (), **options}
    )


def fresh(request: Request, splits_matter: bool = False) -> Answer:
    executor = HashExecutor(4000, splits_matter=splits_matter)
    return engine_of(executor, reuse=False).run([request])[0].answers[0]


# --- the tree ---


def test_the_tree_names_who_agrees_in_most_blocks_first() -> None:
    tree, long = Prefixes(), list(range(4 * BLOCK))
    tree.add(1, long)
    tree.add(2, long[: 2 * BLOCK] + [99] * BLOCK)
    tree.add(3, [77] * BLOCK)
    assert list(tree.near(long[: 3 * BLOCK + 5])) == [(3 * BLOCK, [1]), (2 * BLOCK, [2]), (0, [3])]
    tree.remove(1)
    assert list(tree.near(long)) == [(2 * BLOCK, [2]), (0, [3])]


sequences = st.lists(st.integers(0, 1), max_size=70)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), sequences | st.none()), max_size=20), sequences)
def test_the_tree_knows_all_sequences_by_what_they_agree_in_and_forgets_them_whole(
    changes: list[tuple[int, list[int] | None]], prompt: list[int]
) -> None:
    tree, there = Prefixes(), {}
    for number, ids in changes:
        if ids is None:
            tree.remove(number)
            there.pop(number, None)
        else:
            tree.add(number, ids)
            there[number] = ids
    told = {number: agreed for agreed, numbers in tree.near(prompt) for number in numbers}
    assert told.keys() == there.keys()
    for number, ids in there.items():
        assert told[number] == agreement(np.array(ids), np.array(prompt)) // BLOCK * BLOCK
    for number in list(there):
        tree.remove(number)
    assert not tree._root.below


# --- conversations ---


def test_users_of_one_system_prompt_each_keep_their_history() -> None:
    executor = HashExecutor(4000, splits_matter=False)
    engine, system = engine_of(executor), [7] * 110
    users = [[*system, *([user] * 80)] for user in range(1, 5)]
    for turn in range(4):
        for prompt in users:
            answer = engine.run([ask(prompt)])[0].answers[0]
            assert answer.token_ids == fresh(ask(prompt)).token_ids
            if turn:
                assert answer.timings.reused_tokens == len(prompt) - 1 - 10, "all but what is new in it"
            prompt += [*answer.token_ids, *[8] * 10]
    assert len(executor.slots) == 4, "what a longer conversation holds is not kept twice"


@pytest.mark.parametrize("splits_matter", [False, True])
def test_requests_that_come_at_once_compute_what_they_share_once(splits_matter: bool) -> None:
    executor = HashExecutor(4000, splits_matter=splits_matter)
    engine, shared = engine_of(executor, prefill_chunk=64), [3, 1, 4, 1, 5] * 128
    requests = [ask([*shared, user, user], 4) for user in range(1, 9)]
    for request, result in zip(requests, engine.run(requests), strict=True):
        alone = engine_of(HashExecutor(4000, splits_matter=splits_matter), prefill_chunk=64, reuse=False)
        assert result.token_ids == alone.run([request])[0].token_ids
    assert executor.computed <= len(shared) + 8 * (2 + 4 + 8)


def test_a_request_goes_on_from_one_that_is_still_running_and_another_does_not_wait_behind_it() -> None:
    executor = HashExecutor(4000, splits_matter=False)
    engine, shared = engine_of(executor, prefill_chunk=64), [3, 1, 4] * 100
    engine.add(ask(shared, 50))
    while not executor.steps or executor.computed < len(shared) + 5:
        engine.step()
    before, long = executor.computed, engine.add(ask([*shared, 9], 3))
    engine.step()
    assert executor.computed - before <= 3, "one token of each"
    first, second = engine.add(ask([5] * 300, 2)), engine.add(ask([5] * 290, 2))
    other = engine.add(ask([6], 2))
    begun: dict[int, None] = {}
    while engine.has_work:
        begun |= dict.fromkeys(event.request_id for event in engine.step())
    order = list(begun)
    assert order.index(long) < order.index(other) < order.index(first) < order.index(second)


def test_a_thousand_kept_prompts_are_not_compared_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = HashExecutor(4000, splits_matter=False)
    engine, compared = engine_of(executor), 0
    for number in range(1000):
        slot = executor.allocate(8)
        engine._core.slots._in_use[slot] = slots.Held(slot, 8, np.empty(0, np.int64), 0)
        executor.step([StepInput(slot, [1 + number % 28] * 4, ())])
        engine._core.slots.keep(slot, [1 + number % 28] * 3 + [number % 29], 4)

    def count(ids: np.ndarray, others: np.ndarray) -> int:
        nonlocal compared
        compared += 1
        return agreement(ids, others)

    monkeypatch.setattr(slots, "agreement", count)
    engine.run([ask([5] * 40, 1)])
    assert compared <= 2 * slots.TESTS + 2


def test_kept_prompts_have_a_budget_of_their_own() -> None:
    executor = HashExecutor(4000, splits_matter=False)
    engine = engine_of(executor, memory=10_000, kept_memory=500, max_batch=2)
    for number in range(1, 29):
        engine.run([ask([number] * 90, 10)])
    assert sum(executor.capacity.values()) <= 500
    assert len(executor.slots) == 5, "more than max_batch"
    few = engine_of(HashExecutor(4000, splits_matter=False), most_kept=2)
    few.run([ask([number] * 9) for number in range(1, 9)])
    assert len(few.executor.slots) == 2
