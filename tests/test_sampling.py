"""From logits to a token: each rule against transformers or its definition, order, draw, and what is refused."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

from pellucid import sampling
from pellucid.base.errors import PellucidError, RequestError
from pellucid.sampling import GREEDY, SamplingParams, SamplingState, TokenCounts, largest, logprobs, sample


def row(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def noise(size: int, seed: int, scale: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(size) * scale).astype(np.float32)


def state(prompt: tuple[int, ...] = (), answer: tuple[int, ...] = (), **params: object) -> SamplingState:
    its = SamplingState(SamplingParams(**params), prompt, seed=0)  # type: ignore[arg-type]
    for token in answer:
        its.append(token)
    return its


def processed(
    processor: theirs.LogitsProcessor | theirs.LogitsProcessorList, logits: np.ndarray, ids: tuple[int, ...] = (0,)
) -> np.ndarray:
    """What transformers makes of the logits."""
    return processor(torch.tensor([ids]), torch.from_numpy(logits)[None])[0].numpy()  # type: ignore[arg-type]


def kept_by(processor: theirs.LogitsProcessor, logits: np.ndarray) -> list[int]:
    return np.flatnonzero(np.isfinite(processed(processor, logits))).tolist()


class Uniform:
    """Stands in for a generator: hands out the numbers given."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)

    def random(self) -> float:
        return self.numbers.pop(0)


# --- worked examples ---


def test_a_chain_worked_by_hand() -> None:
    # e^logit: 8, 4, 2, 1, 1. Bias makes the last one 16; top-k drops the two of 1 and 2; then 16 : 8 : 4.
    logits = np.log(row(8, 4, 2, 1, 1))
    its = state(logit_bias={4: math.log(16)}, top_k=3)
    its.random = Uniform(0.0, 7.9 / 28, 8.1 / 28, 11.9 / 28, 12.1 / 28, 0.999999)  # type: ignore[assignment]
    assert [sample(logits, its) for _ in range(6)] == [0, 0, 1, 1, 4, 4]


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    assert sample(row(1, 7, 3, 7), state(do_sample=False)) == 1
    assert sample(row(1, 7, 3, 7), state(temperature=0.0)) == 1
    assert sample(row(1, 7, 3, 7), state(temperature=1e-30)) == 1


def test_greedy_is_changed_by_bias_and_penalties_but_not_by_the_rules_of_the_draw() -> None:
    logits = row(5, 4.9, 1)
    assert sample(logits, state(do_sample=False, temperature=9.0, top_k=2, top_p=0.1, min_p=0.5)) == 0
    assert sample(logits, state(do_sample=False, logit_bias={2: 10.0})) == 2
    assert sample(logits, state((0,), do_sample=False, repetition_penalty=1.1)) == 1
    assert sample(logits, state((0,), do_sample=False, presence_penalty=0.2)) == 0, "the prompt does not count"
    assert sample(logits, state((), (0,), do_sample=False, presence_penalty=0.2)) == 1


def test_frequency_grows_with_each_use_and_presence_does_not() -> None:
    its = state((3, 3), (1, 1, 2), frequency_penalty=0.5, presence_penalty=0.25)
    assert sampling.apply_frequency_and_presence_penalties(np.zeros(4, np.float32), its).tolist() == [
        0,
        -1.25,
        -0.75,
        0,
    ]


def test_rules_leave_the_logits_they_are_given_alone() -> None:
    logits = noise(100, 1)
    before = logits.copy()
    its = state(
        (1, 2),
        (3,),
        temperature=0.5,
        top_k=9,
        top_p=0.8,
        min_p=0.1,
        repetition_penalty=1.3,
        frequency_penalty=1,
        logit_bias={5: 1.0},
    )
    sample(logits, its)
    assert np.array_equal(logits, before)


# --- transformers, value for value ---


@pytest.mark.parametrize("seed", range(5))
def test_repetition_penalty_equals_transformers(seed: int) -> None:
    logits, prompt, answer = noise(300, seed), (5, 9, 9, 120), (7, 5, 299)
    ours = sampling.apply_repetition_penalty(logits, state(prompt, answer, repetition_penalty=1.7))
    assert np.array_equal(ours, processed(theirs.RepetitionPenaltyLogitsProcessor(1.7), logits, prompt + answer))


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 1.9])
def test_temperature_equals_transformers(temperature: float) -> None:
    logits = noise(1000, 2)
    expected = processed(theirs.TemperatureLogitsWarper(temperature), logits)
    assert np.array_equal(sampling.apply_temperature(logits, state(temperature=temperature)), expected)


@pytest.mark.parametrize("size", [5, 63, 64, 1000, 50_000])
@pytest.mark.parametrize("k", [1, 2, 40, 900])
def test_top_k_keeps_what_transformers_keeps(size: int, k: int) -> None:
    for logits in (
        noise(size, k),
        np.round(noise(size, k)),
        np.zeros(size, np.float32),
    ):  # distinct values, many equal ones, all equal
        kept = sampling.keep_top_k(logits, state(top_k=k))
        assert (list(range(size)) if kept is None else kept.tolist()) == kept_by(theirs.TopKLogitsWarper(k), logits)


@pytest.mark.parametrize("top_p", [0.0, 0.01, 0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 3.0, 10.0])
def test_top_p_keeps_what_transformers_keeps(top_p: float, scale: float) -> None:
    # In float64, where adding up the probabilities from either end gives the same cut.
    logits = noise(2000, 3, scale or 1.0).astype(np.float64) if scale else np.zeros(2000)
    kept = sampling.keep_top_p(logits, state(top_p=top_p))
    assert kept is not None
    expected = kept_by(theirs.TopPLogitsWarper(top_p), logits)
    if scale:
        assert kept.tolist() == expected
    else:  # all equal: transformers keeps as many, in no order
        assert abs(len(kept) - len(expected)) <= 1  # 0.5 · 2000 terms of 1/2000 add up to 0.5 only nearly
        assert kept.tolist() == list(range(len(kept)))


@pytest.mark.parametrize("min_p", [0.001, 0.05, 0.5, 1.0])
def test_min_p_keeps_what_transformers_keeps(min_p: float) -> None:
    for seed in range(5):
        logits = noise(3000, seed)
        kept = sampling.keep_min_p(logits, state(min_p=min_p))
        assert kept is not None
        assert kept.tolist() == kept_by(theirs.MinPLogitsWarper(min_p), logits)


def test_the_whole_chain_leaves_the_distribution_that_transformers_leaves() -> None:
    logits, prompt = noise(400, 7, 1.5), (3, 14, 15)
    processors = theirs.LogitsProcessorList(
        [
            theirs.RepetitionPenaltyLogitsProcessor(1.2),
            theirs.TemperatureLogitsWarper(0.8),
            theirs.TopKLogitsWarper(50),
            theirs.TopPLogitsWarper(0.9),
            theirs.MinPLogitsWarper(0.02),
        ]
    )
    expected = torch.from_numpy(processed(processors, logits, prompt)).softmax(-1).numpy()
    its, draws = state(prompt, repetition_penalty=1.2, temperature=0.8, top_k=50, top_p=0.9, min_p=0.02), 5000
    counts = np.bincount([sample(logits, its) for _ in range(draws)], minlength=400)
    assert set(np.flatnonzero(counts)) <= set(np.flatnonzero(expected))
    deviation = np.sqrt(draws * expected * (1 - expected))
    assert np.all(np.abs(counts - draws * expected) <= 5 * deviation + 1)  # five standard deviations; the seed is fixed


# --- properties ---


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=700), st.data())
def test_largest_is_a_sort_cut_short_with_all_that_equal_its_last(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    least = sorted(values, reverse=True)[count - 1]
    assert largest(row(*values), count).tolist() == [place for place, value in enumerate(values) if value >= least]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30_000), st.integers(0, 2**32), st.floats(0, 1, exclude_max=True))
def test_a_draw_inverts_the_running_sum_of_probabilities(size: int, seed: int, uniform: float) -> None:
    logits = noise(size, seed)
    logits[np.random.default_rng(seed).random(size) < 0.3] = -np.inf
    logits[size // 2] = 1.0
    its = state()
    its.random = Uniform(uniform)  # type: ignore[assignment]
    token = sample(logits, its)
    weights = np.exp(logits.astype(np.float64))
    mass = np.concatenate(([0.0], weights.cumsum())) / weights.sum()
    assert weights[token] > 0
    assert mass[token] - 1e-6 <= uniform <= mass[token + 1] + 1e-6  # float32 weights


def test_a_uniform_number_at_either_end_never_draws_what_is_forbidden() -> None:
    logits = row(-math.inf, 1, 2, -math.inf)
    its = state()
    its.random = Uniform(0.0, math.nextafter(1.0, 0.0), 1.0)  # type: ignore[assignment]
    assert [sample(logits, its) for _ in range(3)] == [1, 2, 2]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 500), max_size=300), st.lists(st.integers(0, 500), max_size=400))
def test_counts_kept_token_by_token_equal_counts_taken_at_once(prompt: list[int], answer: list[int]) -> None:
    counts = TokenCounts(prompt)
    for token in answer:
        counts.add(token)
    assert dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True)) == {
        token: answer.count(token) for token in {*prompt, *answer}
    }


def test_a_seed_repeats_an_answer_and_other_answers_to_the_prompt_draw_otherwise() -> None:
    logits, params = noise(1000, 4), SamplingParams(seed=11)

    def answer(index: int, seed: int | None = None, its: SamplingParams = params) -> list[int]:
        state = SamplingState(its, index=index, seed=seed)
        return [sample(logits, state) for _ in range(20)]

    assert answer(0) == answer(0) != answer(1) == answer(1)
    unseeded = SamplingState(SamplingParams())
    drawn = [sample(logits, unseeded) for _ in range(20)]
    assert drawn == answer(0, unseeded.seed, SamplingParams()) != answer(0, None, SamplingParams())
    assert unseeded.seed < 2**53


# --- log-probabilities ---


def test_logprobs_are_of_the_raw_distribution_best_first_with_the_lower_id_before_its_equal() -> None:
    logits = row(1, 3, 3, 0)
    expected = torch.from_numpy(logits).double().log_softmax(-1).tolist()
    result = logprobs(logits, 3, 2)
    assert [token for token, _ in result.top] == [1, 2]
    assert [value for _, value in result.top] == pytest.approx([expected[1], expected[2]])
    assert (result.token_id, result.logprob) == (3, pytest.approx(expected[3]))
    assert logprobs(logits, 0, 0).top == ()
    assert len(logprobs(logits, 0, 99).top) == 4


# --- refusals ---


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -3),
        ("seed", -1),
        ("logit_bias", {5: math.nan}),
        ("logit_bias", {-5: 1.0}),
        ("logit_bias", {"5": 1.0}),
    ],
)
def test_a_parameter_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(RequestError, match=name):
        SamplingParams(**{name: value})  # type: ignore[arg-type]


def test_logits_that_are_not_numbers_and_a_bias_that_forbids_everything_are_said_plainly() -> None:
    with pytest.raises(PellucidError, match="not finite"):
        sample(row(1, math.nan, 2), state())
    with pytest.raises(PellucidError, match="not finite"):
        sample(row(1, math.inf), state(do_sample=False))
    with pytest.raises(RequestError, match="logit_bias forbids"):
        sample(row(1, 2), state(logit_bias={0: -math.inf, 1: -math.inf}))


def test_only_the_choice_that_is_the_raw_argmax_is_called_plain() -> None:
    assert GREEDY.plain_greedy
    for params in (
        {"do_sample": True},
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.1},
        {"logit_bias": {1: 1.0}},
    ):
        assert not SamplingParams(**{"do_sample": False, **params}).plain_greedy  # type: ignore[arg-type]


def test_a_long_chain_over_a_large_vocabulary_is_cheap() -> None:
    logits = noise(152_064, 5)
    its = state(
        tuple(range(2000)),
        temperature=0.8,
        top_k=40,
        top_p=0.95,
        min_p=0.05,
        repetition_penalty=1.1,
        frequency_penalty=0.5,
    )
    times = []
    for _ in range(20):
        start = time.perf_counter()
        sample(logits, its)
        times.append(time.perf_counter() - start)
    assert min(times) < 6e-3  # about 0.2 ms on an idle core; an argsort of the vocabulary takes 17
