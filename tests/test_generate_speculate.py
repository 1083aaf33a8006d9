"""Guesses save steps and change no token: lookup in the text, a draft model, and how far ahead is guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from clairvoyant import Clairvoyant
from hash_executor import VOCAB, HashExecutor, LetterTokenizer, model_config
from hypothesis import given
from hypothesis import strategies as st

from pellucid.base.errors import ConfigError, RequestError
from pellucid.executor import StepInput
from pellucid.generate import Answer, DraftModel, Engine, PromptLookup, Request
from pellucid.generate.pace import LONGEST_REST, Pace
from pellucid.generate.speculate import continuation
from pellucid.sampling import GREEDY, SamplingParams

DRAWN = SamplingParams(seed=5, temperature=1.5, top_p=0.9, repetition_penalty=1.3, presence_penalty=0.4)


def ask(prompt: Sequence[int], max_new_tokens: int = 20, **options: Any) -> Request:
    return Request(
        **{"prompt_ids": prompt, "max_new_tokens": max_new_tokens, "sampling": GREEDY, "stop_token_ids": (), **options}
    )


def engine_of(executor: HashExecutor, **options: Any) -> Engine:
    return Engine(executor, LetterTokenizer(), **options)  # type: ignore[arg-type]


def plain(request: Request) -> list[Answer]:
    return list(engine_of(HashExecutor(splits_matter=False)).run([request])[0].answers)


def same(answer: Answer, other: Answer) -> bool:
    return (answer.token_ids, answer.text, answer.finish_reason, answer.stopped_by, answer.logprobs) == (
        other.token_ids,
        other.text,
        other.finish_reason,
        other.stopped_by,
        other.logprobs,
    )


# --- lookup ---


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, 2, 3, 4, 9, 1, 2], [3, 4, 9, 1]),  # as it went on before
        ([1, 2, 7, 1, 2, 8, 1, 2], [8, 1, 2, 8]),  # the last of two places
        ([5, 1, 2, 7, 6, 1, 2, 8, 5, 1, 2], [7, 6, 1, 2]),  # the place that agrees in more tokens
        ([4, 4, 4], [4, 4, 4, 4]),  # beyond the end, a text that repeats itself
        ([6, 1, 2, 1, 2, 1], [2, 1, 2, 1]),
        ([1, 2, 3, 9, 2], []),  # one token alone is no sign
        ([1, 2, 3], []),
        ([1], []),
    ],
)
def test_a_text_goes_on_as_it_did_before(ids: list[int], expected: list[int]) -> None:
    assert continuation(np.array(ids), 4) == expected


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_a_continuation_is_the_text_after_the_longest_agreement(ids: list[int]) -> None:
    def agreement(place: int) -> int:
        return next(
            (size for size in range(min(place + 1, 8)) if ids[place - size] != ids[len(ids) - 1 - size]),
            min(place + 1, 8),
        )

    place = max(range(len(ids) - 1), key=lambda place: (agreement(place), place), default=None)
    expected: list[int] = []
    if place is not None and agreement(place) >= 2:
        longer = list(ids)
        for _ in range(5):
            longer.append(longer[place + 1 + len(longer) - len(ids)])
        expected = longer[len(ids) :]
    assert continuation(np.array(ids), 5) == expected


@pytest.mark.parametrize("most", [0, 32, True, 1.5])
def test_a_number_of_guesses_out_of_range_is_refused(most: Any) -> None:
    with pytest.raises(RequestError, match="1 to 31"):
        PromptLookup(most)


# --- a draft model ---


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_a_draft_that_is_the_model_itself_is_always_right_and_saves_most_steps(sampling: SamplingParams) -> None:
    executor, draft = HashExecutor(splits_matter=False), HashExecutor(splits_matter=False)
    engine = engine_of(executor, speculate=DraftModel(draft))
    requests = [ask([3, 1, 4], 40, sampling=sampling), ask([3, 1, 4, 1, 5], 40, sampling=sampling, logprobs=2)]
    for request in requests:
        before = executor.steps
        (answer,) = engine.run([request])[0].answers
        assert same(answer, plain(request)[0])
        assert answer.timings.accepted_tokens == answer.timings.guessed_tokens
        assert executor.steps - before <= 7, "1, then 3 + 1, then 7 + 1 tokens a step"
    together = engine.run([replace(request, n=2) for request in requests])
    for request, result in zip(requests, together, strict=True):
        assert all(same(*pair) for pair in zip(result.answers, plain(replace(request, n=2)), strict=True))
    engine.forget()
    assert not executor.slots
    assert not draft.slots


def test_a_draft_that_differs_changes_nothing_and_its_wrong_guesses_are_taken_back() -> None:
    draft = HashExecutor(splits_matter=False)
    logits = draft._logits
    draft._logits = lambda chunks: logits(chunks) + (draft.computed % 3 == 0) * np.eye(VOCAB, dtype=np.float32)[5] * 9  # type: ignore[method-assign]
    engine = engine_of(HashExecutor(splits_matter=False), speculate=DraftModel(draft))
    for sampling in (GREEDY, DRAWN):
        request = ask([3, 1, 4], 50, sampling=sampling, stop="ab")
        (answer,) = engine.run([request])[0].answers
        assert same(answer, plain(request)[0])
        assert 0 < answer.timings.accepted_tokens < answer.timings.guessed_tokens


def test_a_draft_reuses_a_conversations_past_as_the_model_does() -> None:
    draft = HashExecutor(200, splits_matter=False)
    engine = engine_of(HashExecutor(200, splits_matter=False), speculate=DraftModel(draft))
    prompt = [1, 2, 3, 4, 5, 6, 7, 8]
    for _ in range(6):
        before = draft.computed
        (answer,) = engine.run([ask(prompt, 10)])[0].answers
        assert answer.timings.accepted_tokens > 0
        prompt += [*answer.token_ids, 9, 9]
    assert draft.computed - before < 2 * 12, "the last turn's answer and message, of a prompt of 68"
    assert len(draft.slots) == 1


def test_a_draft_with_a_shorter_context_guesses_as_far_as_it_goes() -> None:
    engine = engine_of(HashExecutor(splits_matter=False), speculate=DraftModel(HashExecutor(16, splits_matter=False)))
    request = ask([3, 1, 4], 40)
    (answer,) = engine.run([request])[0].answers
    assert same(answer, plain(request)[0])
    assert 0 < answer.timings.accepted_tokens <= 14
    long = ask([3] * 20, 10)
    assert same(engine.run([long])[0].answers[0], plain(long)[0])


def test_a_draft_with_another_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"another vocabulary \(expected 1,029 tokens"):
        DraftModel(HashExecutor()).check(replace(model_config(), vocab_size=VOCAB + 1000))


def test_a_padded_vocabulary_is_no_other_and_ids_beyond_it_are_not_guessed() -> None:
    class Wider(HashExecutor):
        def __init__(self) -> None:
            super().__init__(splits_matter=False)
            self.config = replace(self.config, vocab_size=VOCAB + 1)

    request = ask([3, VOCAB, 4], 12, sampling=DRAWN)  # a token that the draft does not have
    for speculate in (DraftModel(HashExecutor(splits_matter=False)), None):
        (answer,) = engine_of(Wider(), speculate=speculate).run([request])[0].answers
        assert answer.timings.guessed_tokens == 0
        assert answer.token_ids == plain_wider(Wider(), request)


def plain_wider(executor: HashExecutor, request: Request) -> tuple[int, ...]:
    return engine_of(executor).run([request])[0].token_ids


def test_ctrl_c_in_the_draft_gives_its_slots_back() -> None:
    executor, draft = HashExecutor(splits_matter=False), HashExecutor(splits_matter=False)
    engine = engine_of(executor, speculate=DraftModel(draft))

    def interrupt(inputs: Sequence[StepInput]) -> None:
        draft.before_step = lambda inputs: None
        raise KeyboardInterrupt

    draft.before_step = interrupt
    with pytest.raises(KeyboardInterrupt):
        engine.run([ask([3, 1, 4])])
    assert same(engine.run([ask([3, 1, 4])])[0].answers[0], plain(ask([3, 1, 4]))[0])
    engine.forget()
    assert not executor.slots
    assert not draft.slots


# --- how far ahead ---


def test_guesses_never_go_beyond_the_answers_length_or_the_slot() -> None:
    executor = HashExecutor(splits_matter=False)  # which checks its capacity
    engine = engine_of(executor, speculate=Clairvoyant(plain, right=1.0))
    for length in range(1, 12):
        assert same(engine.run([ask([3, 1], length)])[0].answers[0], plain(ask([3, 1], length))[0])
    full = replace(ask([3] * 50), max_new_tokens=None)  # up to the end of the context
    assert same(engine.run([full])[0].answers[0], plain(full)[0])


def test_in_a_full_batch_nothing_is_guessed_for_rows_cost_as_much_as_guesses_save() -> None:
    executor, widest = HashExecutor(splits_matter=False), 0

    def watch(inputs: Sequence[StepInput]) -> None:
        nonlocal widest
        if all(given.wanted for given in inputs) and executor.steps:
            widest = max(widest, sum(len(given.token_ids) for given in inputs))

    executor.before_step = watch
    requests = [ask([token], 30) for token in range(1, 17)]
    for result in engine_of(executor, speculate=Clairvoyant(plain, right=1.0)).run(requests):
        assert result.answers[0].timings.guessed_tokens == 0
    assert widest == 16


def test_right_guesses_lengthen_the_pace_and_wrong_ones_end_in_rests() -> None:
    pace = Pace()
    assert pace.next() == 3
    pace.adapt(3, 3)
    assert pace.next() == 7
    pace.adapt(2, 2)  # fewer came to mind: that says nothing of seven
    assert pace.next() == 7
    pace.adapt(7, 4)
    assert pace.next() == 7
    pace.adapt(7, 1)
    assert pace.next() == 3
    pace.adapt(3, 0)
    assert pace.next() == 1
    rests = []
    for _ in range(6):
        pace.adapt(1, 0)
        rests.append(0)
        while not pace.next():
            rests[-1] += 1
    assert rests == [4, 8, 16, 16, 16, 16]
    assert max(rests) == LONGEST_REST
    pace.adapt(1, 1)
    assert pace.next() == 3
