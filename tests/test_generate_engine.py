"""The engine: a request's tokens are the same alone and in any company, whatever comes, goes, stops or fails."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from clairvoyant import Clairvoyant
from hash_executor import EOS, VOCAB, HashExecutor, LetterTokenizer, letters
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.base.errors import ContextLengthError, RequestError, TokenizerError
from pellucid.executor import StepInput
from pellucid.generate import Answer, Engine, Event, PromptLookup, Request
from pellucid.generate.core import GUESSING_ROWS
from pellucid.sampling import GREEDY, SamplingParams, SamplingState, logprobs, sample

TOKENIZER: object = LetterTokenizer()


def engine_of(executor: HashExecutor, **options: Any) -> Engine:
    return Engine(executor, TOKENIZER, **options)  # type: ignore[arg-type]


def all_given_back(engine: Engine) -> bool:
    """Whether the executor's slots are free, but for those of finished answers, which the engine may keep."""
    engine.forget()
    executor = engine.executor
    assert isinstance(executor, HashExecutor)
    return not executor.slots


def greedy(prompt: Sequence[int], max_new_tokens: int | None = 8, **options: object) -> Request:
    return Request(prompt_ids=prompt, max_new_tokens=max_new_tokens, sampling=GREEDY, **options)  # type: ignore[arg-type]


def alone(request: Request, prefill_chunk: int = 512, splits_matter: bool = True) -> list[Answer]:
    return list(
        engine_of(HashExecutor(splits_matter=splits_matter), prefill_chunk=prefill_chunk).run([request])[0].answers
    )


def told(answer: Answer) -> tuple[object, ...]:
    """What of an answer must not depend on company."""
    return answer.index, answer.token_ids, answer.text, answer.finish_reason, answer.stopped_by, answer.logprobs


def drain(engine: Engine) -> list[Event]:
    events = []
    while engine.has_work:
        events += engine.step()
    return events


# --- worked example ---


def test_a_greedy_answer_is_the_executors_argmax_step_by_step() -> None:
    executor = HashExecutor()
    expected, slot, given_ids = [], executor.allocate(64), [3, 1, 4]
    while len(expected) < 8 and EOS not in expected:
        expected.append(int(executor.step([StepInput(slot, given_ids, (len(given_ids) - 1,))]).argmax()[0]))
        given_ids = expected[-1:]
    (answer,) = alone(greedy([3, 1, 4]))
    assert list(answer.token_ids) == expected
    assert answer.text == letters(expected)


def test_events_carry_each_token_once_and_their_text_adds_up() -> None:
    engine = engine_of(HashExecutor(), prefill_chunk=2)
    events = list(engine.stream(greedy([3, 1, 4, 1, 5], stop_token_ids=())))
    (answer,) = alone(greedy([3, 1, 4, 1, 5], stop_token_ids=()), prefill_chunk=2)
    assert [event.token_id for event in events] == list(answer.token_ids)
    assert "".join(event.text for event in events) == answer.text == letters(answer.token_ids)
    assert [event.finish_reason for event in events] == [None] * 7 + ["length"]
    assert events[-1].answer is not None
    assert events[-1].answer.token_ids == answer.token_ids
    assert not engine.has_work


def test_an_answer_is_the_sampling_chain_over_the_executors_rows_and_logprobs_are_of_the_raw_ones() -> None:
    params = SamplingParams(temperature=0.7, repetition_penalty=1.5, frequency_penalty=1.5, seed=3)
    executor, state, given_ids, expected = HashExecutor(), SamplingState(params, [3, 1, 4]), [3, 1, 4], []
    slot = executor.allocate(64)
    for _ in range(25):
        row = executor.step([StepInput(slot, given_ids, (len(given_ids) - 1,))]).numpy()[0]
        given_ids = [sample(row, state)]
        state.append(given_ids[0])
        expected.append(logprobs(row, given_ids[0], 2))
    (answer,) = alone(Request(prompt_ids=[3, 1, 4], max_new_tokens=25, sampling=params, logprobs=2, stop_token_ids=()))
    assert answer.logprobs == tuple(expected)
    assert answer.token_ids == tuple(each.token_id for each in expected)


# --- company ---

# Of few tokens, and often with a beginning in common.
prompts = st.lists(st.integers(1, VOCAB - 1), min_size=1, max_size=20) | st.lists(
    st.integers(1, 2), min_size=1, max_size=20
)
samplings = st.one_of(
    st.just(GREEDY),
    st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.5, 1.0, 2.0]),
        top_k=st.sampled_from([0, 5]),
        top_p=st.sampled_from([0.8, 1.0]),
        repetition_penalty=st.sampled_from([1.0, 1.3]),
        presence_penalty=st.sampled_from([0.0, 0.7]),
        seed=st.integers(0, 2**32),
    ),
)
requests = st.builds(
    Request,
    prompt_ids=prompts,
    max_new_tokens=st.integers(1, 12),
    sampling=samplings,
    stop=st.lists(st.text("abcdefgh", min_size=1, max_size=2), max_size=2),
    n=st.sampled_from([1, 1, 1, 2, 3]),
    logprobs=st.sampled_from([None, None, 0, 2]),
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_answer_equals_the_answer_alone_whoever_comes_and_goes(data: st.DataObject) -> None:
    chunk, max_batch = data.draw(st.integers(1, 8), "prefill_chunk"), data.draw(st.integers(3, 6), "max_batch")
    max_tokens = chunk + max_batch + data.draw(st.integers(0, 20), "spare tokens")
    executor = HashExecutor(splits_matter=data.draw(st.booleans(), "splits_matter"))
    speculate = data.draw(
        st.sampled_from(
            [None, Clairvoyant(lambda request: alone(request, chunk, executor.splits_matter)), PromptLookup(3)]
        ),
        "speculate",
    )
    if speculate is not None:
        max_tokens += GUESSING_ROWS

    memory = data.draw(st.sampled_from([64, 100, 200, 2000]), "memory")

    def watch(inputs: Sequence[StepInput]) -> None:
        assert sum(len(given.token_ids) for given in inputs) <= max_tokens
        assert len(inputs) <= max_batch
        assert sum(executor.capacity.values()) <= memory, "a byte a token"

    executor.before_step = watch
    engine = engine_of(
        executor,
        max_batch=max_batch,
        prefill_chunk=chunk,
        max_tokens_per_step=max_tokens,
        reuse=data.draw(st.booleans(), "reuse"),
        speculate=speculate,
        memory=memory,
    )
    line = data.draw(
        st.lists(st.tuples(requests, st.integers(0, 6), st.none() | st.integers(0, 10)), min_size=1, max_size=7),
        "requests",
    )
    arrivals, cancellations = {}, {}  # step -> what happens before it
    for request, arrival, cancelled_after in line:
        arrivals.setdefault(arrival, []).append((request, cancelled_after))
    by_id: dict[int, Request] = {}
    events: list[Event] = []
    for step in itertools.count():
        for request, cancelled_after in arrivals.pop(step, ()):
            by_id[request_id := engine.add(request)] = request
            if cancelled_after is not None:
                cancellations.setdefault(step + cancelled_after, []).append(request_id)
        for request_id in cancellations.pop(step, ()):
            engine.cancel(request_id)
        if not engine.has_work and not arrivals:
            break
        events += engine.step()

    assert all_given_back(engine)
    for request_id, request in by_id.items():
        mine = [event for event in events if event.request_id == request_id]
        for theirs in alone(request, chunk, executor.splits_matter):
            its = [event for event in mine if event.index == theirs.index]
            answers = [event.answer for event in its if event.answer is not None]
            assert len(answers) == 1
            assert its[-1].answer is answers[0]
            assert "".join(event.text for event in its) == answers[0].text
            if answers[0].finish_reason == "cancelled":
                count = len(answers[0].token_ids)
                assert answers[0].token_ids == theirs.token_ids[:count]
            else:
                assert told(answers[0]) == told(theirs)


def test_a_prompt_is_cut_at_multiples_of_the_chunk_however_little_room_a_step_has() -> None:
    executor = HashExecutor()
    sizes: dict[int, list[int]] = {}

    def note(inputs: Sequence[StepInput]) -> None:
        for its in inputs:
            sizes.setdefault(its.slot, []).append(len(its.token_ids))

    executor.before_step = note
    engine = engine_of(executor, max_batch=3, prefill_chunk=4, max_tokens_per_step=7)
    engine.run([greedy([5] * length, 3, stop_token_ids=()) for length in (9, 10, 4)])
    assert sorted(sizes.values()) == [[4, 1, 1], [4, 4, 1, 1, 1], [4, 4, 2, 1, 1]]


def test_requests_are_served_in_the_order_they_came() -> None:
    engine = engine_of(HashExecutor(), max_batch=2, prefill_chunk=4)
    ids = [engine.add(greedy([7] * (12 - 3 * place), 4, stop_token_ids=())) for place in range(4)]
    first_tokens = {}
    for event in drain(engine):
        first_tokens.setdefault(event.request_id, None)
    assert list(first_tokens) in ([0, 1, 2, 3], [1, 0, 2, 3]), "the later two wait for places"
    assert ids == [0, 1, 2, 3]


def test_several_answers_share_one_prefill_and_greedy_ones_are_alike() -> None:
    executor = HashExecutor()
    (result,) = engine_of(executor).run([greedy([4] * 20, 2, n=3, stop_token_ids=())])
    assert executor.computed == 20 + 3
    assert {answer.token_ids for answer in result.answers} == {result.token_ids}
    (sampled,) = engine_of(executor).run(
        [Request(prompt_ids=[4, 4], max_new_tokens=9, sampling=SamplingParams(seed=5), n=3)]
    )
    assert len({answer.token_ids for answer in sampled.answers}) == 3
    assert [answer.index for answer in sampled.answers] == [0, 1, 2]
    assert (
        alone(Request(prompt_ids=[4, 4], max_new_tokens=9, sampling=SamplingParams(seed=5)))[0].token_ids
        == sampled.token_ids
    )


def test_an_answer_without_a_seed_can_be_repeated_by_the_one_it_reports() -> None:
    request = Request(prompt_ids=[2, 3], max_new_tokens=12, sampling=SamplingParams(), stop_token_ids=())
    (first,) = alone(request)
    (again,) = alone(replace(request, sampling=SamplingParams(seed=first.seed)))
    assert first.token_ids == again.token_ids


# --- endings ---


def test_a_stop_id_ends_an_answer_is_among_its_ids_and_not_in_its_text() -> None:
    (full,) = alone(greedy([3, 1, 4], 20, stop_token_ids=()))
    stop = full.token_ids[5]
    (answer,) = alone(greedy([3, 1, 4], 20, stop_token_ids=[stop]))
    end = full.token_ids.index(stop) + 1
    assert answer.token_ids == full.token_ids[:end]
    assert answer.text == letters(full.token_ids[: end - 1])
    assert (answer.finish_reason, answer.stopped_by) == ("stop", stop)


def test_the_models_end_of_text_ends_an_answer_unless_stop_ids_are_given() -> None:
    prompt = next(
        [token] for token in range(1, VOCAB) if EOS in alone(greedy([token], 20, stop_token_ids=()))[0].token_ids
    )
    (full,), (answer,) = alone(greedy(prompt, 20, stop_token_ids=())), alone(greedy(prompt, 20))
    assert answer.token_ids == full.token_ids[: full.token_ids.index(EOS) + 1]
    assert (answer.finish_reason, answer.stopped_by) == ("stop", EOS)


def test_a_stop_string_across_tokens_is_never_half_shown() -> None:
    (full,) = alone(greedy([6], 30, stop_token_ids=()))
    stop = full.text[7:10]
    events = list(engine_of(HashExecutor()).stream(greedy([6], 30, stop=stop, stop_token_ids=())))
    answer = events[-1].answer
    assert answer is not None
    assert "".join(event.text for event in events) == answer.text == full.text[: full.text.index(stop)]
    assert (answer.finish_reason, answer.stopped_by) == ("stop", stop)


def test_text_held_back_for_a_stop_string_comes_out_at_the_end() -> None:
    (full,) = alone(greedy([6], 10, stop_token_ids=()))
    stop = full.text[-2:] + "!"
    (answer,) = alone(greedy([6], 10, stop=[stop], stop_token_ids=()))
    assert (answer.text, answer.finish_reason) == (full.text, "length")


def test_leaving_a_stream_cancels_its_request_and_a_streams_company_loses_nothing() -> None:
    executor = HashExecutor()
    engine = engine_of(executor)
    other = engine.add(greedy([9, 9], 6, stop_token_ids=()))
    stream = engine.stream(greedy([3, 1], 30, stop_token_ids=()))
    next(stream)
    next(stream)
    stream.close()
    events = drain(engine)
    assert {event.request_id for event in events} == {other}
    assert tuple(event.token_id for event in events) == alone(greedy([9, 9], 6, stop_token_ids=()))[0].token_ids
    assert all_given_back(engine)


def test_two_streams_may_be_read_in_turns() -> None:
    engine = engine_of(HashExecutor())
    requests = [greedy([place], 7, stop_token_ids=()) for place in (4, 5)]
    streams = [engine.stream(request) for request in requests]
    pairs = list(zip(*streams, strict=True))
    for place, request in enumerate(requests):
        assert tuple(pair[place].token_id for pair in pairs) == alone(request)[0].token_ids


def test_cancelling_what_waits_what_runs_and_what_is_unknown() -> None:
    executor = HashExecutor()
    engine = engine_of(executor, max_batch=1)
    running, waiting = engine.add(greedy([3], 30, stop_token_ids=())), engine.add(greedy([4], 30, stop_token_ids=()))
    engine.step()
    for request_id in (waiting, running, 99, running):
        engine.cancel(request_id)
    assert executor.slots, "a step may be reading it"
    events = engine.step()
    assert not executor.slots
    assert [(event.request_id, event.finish_reason) for event in events] == [
        (waiting, "cancelled"),
        (running, "cancelled"),
    ]
    assert events[1].answer is not None
    assert len(events[1].answer.token_ids) == 1
    assert not engine.has_work


# --- failures ---


def test_ctrl_c_inside_a_step_ends_the_running_and_leaves_the_engine_usable() -> None:
    executor = HashExecutor()
    engine = engine_of(executor, max_batch=2)
    ids = [engine.add(greedy([token], 5, stop_token_ids=())) for token in (3, 4, 5)]
    engine.step()

    def interrupt(inputs: Sequence[StepInput]) -> None:
        executor.before_step = lambda inputs: None
        raise KeyboardInterrupt

    executor.before_step = interrupt
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    assert all_given_back(engine)
    events = drain(engine)
    reasons = {event.request_id: event.finish_reason for event in events if event.answer}
    assert reasons == {ids[0]: "cancelled", ids[1]: "cancelled", ids[2]: "length"}
    tokens = tuple(event.token_id for event in events if event.request_id == ids[2])
    assert tokens == alone(greedy([5], 5, stop_token_ids=()))[0].token_ids


def test_an_executor_that_fails_gives_its_slots_back_and_its_error_to_whoever_called() -> None:
    executor = HashExecutor()
    engine = engine_of(executor)

    def fail(inputs: Sequence[StepInput]) -> None:
        raise RuntimeError("out of memory")

    executor.before_step = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.run([greedy([3], n=2), greedy([4])])
    assert not executor.slots
    assert not engine.has_work, "run leaves nothing behind"
    executor.before_step = lambda inputs: None
    assert engine.run([greedy([3])])[0].token_ids == alone(greedy([3]))[0].token_ids


def test_what_finds_no_memory_waits_and_fails_only_where_there_is_none_even_alone() -> None:
    executor = HashExecutor(max_slots=1)
    engine = engine_of(executor)
    requests = [greedy([3], 9), greedy([4], 9), greedy([3], 9, n=2)]
    for request, result in zip(requests, engine.run(requests), strict=True):
        assert [told(answer) for answer in result.answers] == [told(answer) for answer in alone(request)]
    executor.max_slots = 0
    engine.forget()
    (result,) = engine.run([greedy([3], 9)])
    assert isinstance(result.answers[0].error, MemoryError)
    assert not executor.slots


def test_an_answer_whose_text_cannot_be_made_fails_alone() -> None:
    (full,) = alone(greedy([3], 9, stop_token_ids=()))

    class Brittle(LetterTokenizer):
        def text_stream(self, skip_special_tokens: bool) -> object:  # type: ignore[override]
            stream = super().text_stream(skip_special_tokens)
            push = stream.push

            def brittle(token_id: int) -> str:
                if token_id == full.token_ids[2]:
                    raise TokenizerError("this token has no text")
                return push(token_id)

            stream.push = brittle  # type: ignore[method-assign]
            return stream

    others = next(
        [token]
        for token in range(1, VOCAB)
        if full.token_ids[2] not in (token, *alone(greedy([token], 4, stop_token_ids=()))[0].token_ids)
    )
    executor = HashExecutor()
    requests = [greedy([3], 9, stop_token_ids=()), greedy(others, 4, stop_token_ids=())]
    broken, fine = Engine(executor, Brittle()).run(requests)  # type: ignore[arg-type]
    assert broken.answers[0].finish_reason == "error"
    assert broken.token_ids == full.token_ids[:3]
    assert told(fine.answers[0]) == told(alone(greedy(others, 4, stop_token_ids=()))[0])
    assert not executor.slots


# --- refusals ---


def test_a_prompt_beyond_the_context_is_an_error_naming_both_lengths() -> None:
    engine = engine_of(HashExecutor(context_len=10))
    with pytest.raises(ContextLengthError, match=r"at most 9 tokens, with a context of 10, received 12 tokens"):
        engine.add(greedy([1] * 12, None))
    with pytest.raises(ContextLengthError):
        engine.add(greedy([1] * 10, None))
    assert not engine.has_work


def test_new_tokens_are_clipped_to_the_context_only_where_their_number_was_left_open() -> None:
    engine = engine_of(HashExecutor(context_len=10))
    (result,) = engine.run([greedy([1] * 7, None, stop_token_ids=())])
    assert len(result.token_ids) == 3
    assert result.answers[0].finish_reason == "length"
    assert len(engine.run([greedy([1] * 7, 3, stop_token_ids=())])[0].token_ids) == 3
    with pytest.raises(ContextLengthError, match=r"7 tokens and max_new_tokens=4 .* at most 10 together, received 11"):
        engine.add(greedy([1] * 7, 4))
    with pytest.raises(ContextLengthError, match="context of 5"):
        engine_of(HashExecutor(context_len=10), context_len=5).add(greedy([1] * 7, None))


def test_an_empty_prompt_becomes_the_models_bos_or_an_error() -> None:
    with pytest.raises(RequestError, match="prompt is empty"):
        engine_of(HashExecutor()).add(greedy([]))
    (result,) = engine_of(HashExecutor(bos_token_id=2)).run([greedy([])])
    assert result.prompt_ids == (2,)
    assert result.token_ids == alone(greedy([2]))[0].token_ids


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt_ids": [1, VOCAB]}, f"0 to {VOCAB - 1}, received {VOCAB}"),
        ({"prompt_ids": [-1]}, "received -1"),
        ({"prompt_ids": [1.5]}, "whole numbers"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"n": 0}, "n is out of range"),
        ({"n": 17}, "max_batch = 16"),
        ({"logprobs": -1}, "logprobs"),
        ({"stop": ["a", ""]}, "at least one character"),
        ({"sampling": SamplingParams(logit_bias={VOCAB: 1.0})}, "logit_bias"),
    ],
)
def test_a_request_out_of_range_is_refused_by_name(options: dict[str, object], said: str) -> None:
    engine = engine_of(HashExecutor())
    with pytest.raises(RequestError, match=said):
        engine.add(Request(**{"prompt_ids": [1], **options}))  # type: ignore[arg-type]
    assert not engine.has_work


def test_one_bad_request_is_found_before_any_of_a_run_begins() -> None:
    executor = HashExecutor()
    engine = engine_of(executor)
    with pytest.raises(RequestError):
        engine.run([greedy([3]), greedy([VOCAB])])
    assert (executor.steps, engine.has_work) == (0, False)


def test_stop_strings_without_a_tokenizer_are_refused_and_ids_are_not() -> None:
    engine = Engine(HashExecutor())
    with pytest.raises(RequestError, match="tokenizer"):
        engine.add(greedy([1], stop="x"))
    (result,) = engine.run([greedy([3, 1, 4])])
    assert (result.token_ids, result.text) == (alone(greedy([3, 1, 4]))[0].token_ids, "")


@pytest.mark.parametrize(
    "options", [{"max_batch": 0}, {"prefill_chunk": 0}, {"max_tokens_per_step": 20}, {"context_len": 0}]
)
def test_an_engine_that_could_not_run_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(RequestError, match=next(iter(options))):
        engine_of(HashExecutor(), **options)


# --- timings ---


def test_timings_count_tokens_and_seconds_of_each_phase() -> None:
    (answer,) = alone(greedy([3] * 20, 6, stop_token_ids=()))
    timings = answer.timings
    assert (timings.prompt_tokens, timings.new_tokens) == (20, 6)
    assert min(timings.queued, timings.prefill, timings.decode) > 0
    assert timings.prefill_tokens_per_second == pytest.approx(20 / timings.prefill)
    assert timings.decode_tokens_per_second == pytest.approx(5 / timings.decode)
    assert timings.time_to_first_token == pytest.approx(timings.queued + timings.prefill)
