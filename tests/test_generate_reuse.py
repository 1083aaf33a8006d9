"""A prompt that begins as an earlier one did goes on from there: less is computed, and the tokens are the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from clairvoyant import Clairvoyant
from hash_executor import VOCAB, HashExecutor
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.base.errors import UnsupportedError
from pellucid.executor import StepInput
from pellucid.generate import Answer, Engine, Event, Request
from pellucid.sampling import GREEDY, SamplingParams


def ask(prompt: Sequence[int], max_new_tokens: int = 5, **options: Any) -> Request:
    return Request(
        **{"prompt_ids": prompt, "max_new_tokens": max_new_tokens, "sampling": GREEDY, "stop_token_ids": (), **options}
    )


def answer_of(engine: Engine, request: Request) -> Answer:
    return engine.run([request])[0].answers[0]


def fresh(request: Request, *, splits_matter: bool, prefill_chunk: int | None = None) -> Answer:
    executor = HashExecutor(400, splits_matter=splits_matter)
    return answer_of(Engine(executor, prefill_chunk=prefill_chunk, reuse=False), request)


# --- worked example ---


def test_the_next_turn_of_a_conversation_computes_only_what_is_new() -> None:
    executor = HashExecutor(splits_matter=False)
    engine = Engine(executor)
    first = answer_of(engine, ask([3, 1, 4, 1, 5]))
    assert executor.computed == 5 + 4, "the last token of an answer is not computed"
    prompt = [3, 1, 4, 1, 5, *first.token_ids, 9, 2]
    second = answer_of(engine, ask(prompt))
    assert executor.computed == 9 + 3 + 4
    assert (second.timings.prompt_tokens, second.timings.reused_tokens) == (12, 9)
    assert second.token_ids == fresh(ask(prompt), splits_matter=False).token_ids


def test_the_same_prompt_again_computes_its_last_token_alone() -> None:
    executor = HashExecutor(splits_matter=False)
    engine = Engine(executor)
    request = ask([3, 1, 4, 1, 5])
    assert answer_of(engine, request).token_ids == answer_of(engine, request).token_ids
    assert executor.computed == 9 + 1 + 4


def test_where_splits_matter_whole_chunks_are_reused_and_what_is_computed_anew_is_bounded() -> None:
    executor = HashExecutor(400)
    engine = Engine(executor, prefill_chunk=4)
    prompt: list[int] = [7, 8, 9]
    for turn in range(12):
        before = executor.computed
        answer = answer_of(engine, ask(prompt))
        assert answer.token_ids == fresh(ask(prompt), splits_matter=True, prefill_chunk=4).token_ids
        added = 5 + 3  # the last answer, which was not computed in chunks, and the new message
        assert executor.computed - before <= added + 4 + 4, (
            f"turn {turn}: what is new, a chunk begun before, and the answer"
        )
        prompt += [*answer.token_ids, 1, 2, 3]


# --- the same tokens ---


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_conversations_beside_each_other_say_what_they_would_say_without_reuse(data: st.DataObject) -> None:
    """Each turn goes on from all, or from some, of an earlier one, with guesses and without."""
    splits_matter, chunk = data.draw(st.booleans(), "splits_matter"), data.draw(st.integers(1, 5), "prefill_chunk")
    executor = HashExecutor(400, splits_matter=splits_matter)
    guessing = Clairvoyant(lambda request: [fresh(request, splits_matter=splits_matter, prefill_chunk=chunk)])
    engine = Engine(
        executor,
        prefill_chunk=chunk,
        max_batch=data.draw(st.integers(1, 4)),
        memory=2000,
        speculate=data.draw(st.sampled_from([None, guessing])),
    )
    sampling = data.draw(st.sampled_from([GREEDY, SamplingParams(seed=3, temperature=2.0, repetition_penalty=1.2)]))
    said: list[list[int]] = [[5, 6]]
    for _ in range(data.draw(st.integers(1, 8), "turns")):
        earlier = data.draw(st.sampled_from(said))
        cut = data.draw(st.integers(1, len(earlier)) | st.just(len(earlier)))
        prompt = earlier[:cut] + data.draw(st.lists(st.integers(1, VOCAB - 1), max_size=4))
        stops = data.draw(st.sampled_from([(), range(10)]))  # a wrong guess stands in the slot where the stop id would
        request = ask(prompt, data.draw(st.integers(1, 9)), sampling=sampling, stop_token_ids=stops)
        answer = answer_of(engine, request)
        assert answer.token_ids == fresh(request, splits_matter=splits_matter, prefill_chunk=chunk).token_ids
        said.append([*prompt, *answer.token_ids])
        assert sum(executor.capacity.values()) <= 2000
    engine.forget()
    assert not executor.slots


def test_two_conversations_in_turns_do_not_cost_each_other_their_past() -> None:
    executor = HashExecutor(400, splits_matter=False)
    engine = Engine(executor)
    system = [9, 9]
    prompts = [[*system, 1, 2, 3, 4, 5, 6], [*system, 6, 5, 4, 3, 2, 1]]
    for turn in range(6):
        for prompt in prompts:
            answer = answer_of(engine, ask(prompt))
            assert answer.token_ids == fresh(ask(prompt), splits_matter=False).token_ids
            if turn:
                assert answer.timings.reused_tokens == len(prompt) - 3, (
                    "all but the last token of the answer and the new message"
                )
            prompt += [*answer.token_ids, 7, 8]


# --- memory ---


def test_kept_slots_give_way_to_running_requests_and_the_oldest_goes_first() -> None:
    executor = HashExecutor(splits_matter=False)
    engine = Engine(executor, memory=66, kept_memory=33)  # room for six such requests, and for three that have ended
    executor.before_step = lambda inputs: assert_at_most(sum(executor.capacity.values()), 66)
    prompts = [[token] * 6 for token in range(1, 9)]
    engine.run([ask(prompt) for prompt in prompts])
    assert len(executor.slots) == 3
    for prompt in prompts[-3:]:
        assert answer_of(engine, ask(prompt)).timings.reused_tokens == 5
    assert answer_of(engine, ask(prompts[0])).timings.reused_tokens == 0
    engine.forget(idle=60)
    assert len(executor.slots) == 3, "they were used a moment ago"
    del engine
    assert not executor.slots, "with the engine goes what it kept"


def assert_at_most(value: int, most: int) -> None:
    assert value <= most


def test_a_request_that_finds_no_memory_gets_what_was_kept() -> None:
    executor = HashExecutor(splits_matter=False, max_slots=2)
    engine = Engine(executor)
    for token in range(1, 6):
        assert answer_of(engine, ask([token] * 4)).finish_reason == "length"
    assert len(executor.slots) <= 2


def test_a_long_conversation_is_seldom_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, copied = HashExecutor(4000, splits_matter=False), 0
    fork = executor.fork

    def count(slot: int, capacity: int, length: int | None = None) -> int:
        nonlocal copied
        copied += length or 0
        return fork(slot, capacity, length)

    monkeypatch.setattr(executor, "fork", count)
    engine, prompt = Engine(executor), [1, 2, 3]
    for _ in range(80):
        prompt += [*answer_of(engine, ask(prompt)).token_ids, 4, 5, 6]
    assert copied < 2 * len(prompt), "tokens copied in all: their capacities double"


def test_without_reuse_nothing_is_kept() -> None:
    executor = HashExecutor(splits_matter=False)
    answer_of(Engine(executor, reuse=False), ask([1, 2, 3]))
    assert not executor.slots


# --- what goes wrong ---


def test_after_ctrl_c_in_mid_answer_the_conversation_goes_on_from_there() -> None:
    executor = HashExecutor(splits_matter=False)
    engine = Engine(executor)

    def interrupt(inputs: Sequence[StepInput]) -> None:
        if executor.computed == 8:
            executor.before_step = lambda inputs: None
            raise KeyboardInterrupt

    executor.before_step = interrupt
    events: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        events.extend(engine.stream(ask([3, 1, 4, 1, 5], 20)))
    said = [event.token_id for event in events if event.token_id is not None]
    assert len(said) == 4
    answer = answer_of(engine, ask([3, 1, 4, 1, 5, *said, 2]))
    assert answer.timings.reused_tokens == 8
    assert answer.token_ids == fresh(ask([3, 1, 4, 1, 5, *said, 2]), splits_matter=False).token_ids


def test_a_cache_that_cannot_go_back_is_begun_anew() -> None:
    executor = HashExecutor(splits_matter=False)

    def refuse(slot: int, length: int) -> None:
        if length < executor.length(slot):
            raise UnsupportedError("the window has moved on")

    executor.truncate = refuse  # type: ignore[method-assign]
    executor.fork = lambda slot, capacity, length=None: refuse(slot, length or 0)  # type: ignore[method-assign, assignment]
    engine = Engine(executor)
    answer_of(engine, ask([1, 2, 3, 4, 5, 6, 7, 8]))
    other = ask([1, 2, 3, 4, 5, 6, 7, 9])
    answer = answer_of(engine, other)
    assert answer.timings.reused_tokens == 0
    assert answer.token_ids == fresh(other, splits_matter=False).token_ids
    engine.forget()
    assert not executor.slots


def test_a_wrong_guess_where_an_answer_stops_is_not_taken_for_its_stop_id() -> None:
    executor = HashExecutor(splits_matter=False)
    request = ask([3, 1, 4], 9)
    known = fresh(request, splits_matter=False)
    stop = next(token for token in known.token_ids if known.token_ids.index(token) == 1)
    engine = Engine(executor, speculate=Clairvoyant(lambda request: [known], right=0.0))
    for _ in range(3):  # guesses are made at random
        answer = answer_of(engine, ask([3, 1, 4], 9, stop_token_ids=[stop]))
        prompt = [3, 1, 4, *answer.token_ids, 2]
        assert answer_of(engine, ask(prompt)).token_ids == fresh(ask(prompt), splits_matter=False).token_ids
        engine.forget()
