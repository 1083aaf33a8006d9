"""What a server hooks into: masks of the next token, log-probabilities of the prompt, hidden states for embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from clairvoyant import Clairvoyant
from hash_executor import EOS, VOCAB, HashExecutor, LetterTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import reference_logits, reference_model, tiny

from pellucid.base.errors import ContextLengthError, NotFiniteError, RequestError
from pellucid.executor import Executor
from pellucid.generate import Answer, DraftModel, Engine, PromptLookup, Request
from pellucid.generate.constraint import allowed
from pellucid.model.executor import TorchExecutor
from pellucid.model.load import weights_of
from pellucid.native.build import compiler
from pellucid.sampling import GREEDY, SamplingParams


@dataclass
class OneOf:
    """Answers are one of these sequences of tokens, and an end token."""

    choices: Sequence[tuple[int, ...]]
    size: int = VOCAB
    end: int = EOS

    def start(self) -> Path:
        return Path(self, ())


class Path:
    def __init__(self, to: OneOf, so_far: tuple[int, ...]) -> None:
        self.to, self.so_far = to, so_far

    def next(self, so_far: tuple[int, ...]) -> set[int]:
        n = len(so_far)
        going = {choice[n] for choice in self.to.choices if choice[:n] == so_far and len(choice) > n}
        return going | ({self.to.end} if so_far in self.to.choices else set())

    def mask(self) -> np.ndarray:
        mask = np.zeros(self.to.size, bool)
        mask[list(self.next(self.so_far))] = True
        return mask

    def accept(self, token_id: int) -> None:
        assert token_id in self.next(self.so_far) | {self.to.end}
        self.so_far = (*self.so_far, token_id)

    def valid_prefix(self, token_ids: Sequence[int]) -> int:
        so_far = self.so_far
        for count, token in enumerate(token_ids):
            if token not in self.next(so_far):
                return count
            so_far = (*so_far, token)
        return len(token_ids)

    @property
    def finished(self) -> bool:
        return self.next(self.so_far) == {self.to.end}


def engine_of(executor: HashExecutor, **options: Any) -> Engine:
    return Engine(executor, LetterTokenizer(), **options)  # type: ignore[arg-type]


def answer_of(request: Request, **options: Any) -> Answer:
    return engine_of(HashExecutor(splits_matter=False), **options).run([request])[0].answers[0]


# --- masks ---


def test_an_answer_is_one_of_those_that_the_constraint_allows() -> None:
    request = Request(prompt_ids=[3, 1, 4], max_new_tokens=20, sampling=GREEDY)
    free = answer_of(request)
    choices = [(5, 6, 7), (5, 9), (8, 8, 8, 8)]
    bound = answer_of(replace(request, constraint=OneOf(choices)))
    assert bound.token_ids in choices
    assert free.token_ids not in choices
    assert (bound.finish_reason, bound.stopped_by) == ("stop", None), "its end is seen without a step for an end token"
    short = answer_of(replace(request, max_new_tokens=2, constraint=OneOf([(5, 6, 7)])))
    assert (short.token_ids, short.finish_reason) == ((5, 6), "length")


def test_an_end_token_ends_an_answer_where_more_might_have_come() -> None:
    seen = set()
    for seed in range(40):
        request = Request(prompt_ids=[3], max_new_tokens=9, sampling=SamplingParams(seed=seed, temperature=3.0))
        answer = answer_of(replace(request, constraint=OneOf([(5,), (5, 6, 7)])))
        seen.add((answer.token_ids, answer.stopped_by))
    assert seen == {((5, EOS), EOS), ((5, 6, 7), None)}


@settings(max_examples=60, deadline=None)
@given(
    choices=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=6).map(tuple), min_size=1, max_size=5),
    seed=st.integers(0, 100),
    n=st.integers(1, 3),
    guessing=st.sampled_from(["nothing", "right", "wrong", "lookup", "draft"]),
)
def test_guesses_change_no_token_of_a_constrained_answer(
    choices: list[tuple[int, ...]], seed: int, n: int, guessing: str
) -> None:
    sampling = GREEDY if seed % 2 else SamplingParams(seed=seed, temperature=2.0, repetition_penalty=1.3)
    request = Request(
        prompt_ids=[1, 2, 1, 2], max_new_tokens=8, sampling=sampling, n=n, logprobs=2, constraint=OneOf(choices)
    )

    def plain(request: Request) -> tuple[Answer, ...]:
        return engine_of(HashExecutor(splits_matter=False)).run([request])[0].answers

    speculate: Any = {
        "nothing": None,
        "right": Clairvoyant(plain, 1.0),
        "wrong": Clairvoyant(plain, 0.5),
        "lookup": PromptLookup(),
        "draft": DraftModel(HashExecutor(splits_matter=False)),
    }[guessing]
    executor = HashExecutor(splits_matter=False)
    engine = engine_of(executor, speculate=speculate)
    for answer, theirs in zip(engine.run([request])[0].answers, plain(request), strict=True):
        assert (answer.token_ids, answer.logprobs, answer.finish_reason, answer.stopped_by) == (
            theirs.token_ids,
            theirs.logprobs,
            theirs.finish_reason,
            theirs.stopped_by,
        )
        assert tuple(token for token in answer.token_ids if token != EOS) in choices or answer.finish_reason == "length"


def test_an_answer_without_a_way_on_fails_alone_and_so_does_a_matcher_that_raises() -> None:
    class Broken(Path):
        def accept(self, token_id: int) -> None:
            raise RuntimeError("lost")

    class Dead(OneOf):
        def start(self) -> Path:
            return Broken(self, ())

    engine = engine_of(HashExecutor())
    request = Request(prompt_ids=[3], max_new_tokens=5, sampling=GREEDY, stop_token_ids=())
    results = engine.run([replace(request, constraint=OneOf([])), replace(request, constraint=Dead([(1, 2)])), request])
    errors = [str(result.answers[0].error) for result in results]
    assert "no token is left" in errors[0]
    assert errors[1:] == ["lost", "None"]
    assert results[2].token_ids == answer_of(request).token_ids or len(results[2].token_ids) == 5


def test_a_mask_hides_no_number_that_is_not_finite_and_what_lies_beyond_it_is_forbidden() -> None:
    row = np.array([1.0, np.nan, 3.0, 9.0], np.float32)
    assert np.isnan(allowed(row, np.array([True, False, True]))).tolist() == [False, True, False, False]
    assert allowed(row, np.array([True, False, True]))[3] == -np.inf
    assert allowed(row, None) is row
    with pytest.raises(RequestError, match="no token is left"):
        allowed(row, np.zeros(4, bool))


# --- executors ---

MODELS = ("llama", "gpt2", "gemma2")


def torch_executor(model: str) -> Executor:
    return TorchExecutor(tiny(model))


@cache
def native_executor(model: str) -> Executor:
    from pellucid.native.executor import NativeExecutor

    return NativeExecutor(tiny(model).config, dict(weights_of(tiny(model))), threads=2, flags=("-O1",))


@pytest.fixture(params=["torch", "native"])
def executor_of(request: pytest.FixtureRequest, private_cache: object) -> Callable[[str], Executor]:
    if request.param == "native" and compiler() is None:
        pytest.skip("no C compiler; install gcc or clang, or `pip install ziglang`")
    return torch_executor if request.param == "torch" else native_executor


PROMPT = [5, 17, 3, 88, 41, 7, 2, 30, 31, 32]


# --- log-probabilities of the prompt ---


@pytest.mark.parametrize("model", MODELS[:2])
def test_the_prompts_log_probabilities_equal_transformers(executor_of: Callable[[str], Executor], model: str) -> None:
    logits = reference_logits(tiny(model), torch.tensor([PROMPT]))[0]
    expected = logits.log_softmax(-1)
    request = Request(prompt_ids=PROMPT, max_new_tokens=2, sampling=GREEDY, prompt_logprobs=3, stop_token_ids=())
    engine = Engine(executor_of(model), prefill_chunk=4)
    for _ in range(2):  # the second time it could be reused, and must not be
        ((event, *_),) = [list(engine.stream(request))]
        scores = event.prompt_logprobs
        assert scores is not None
        assert scores[0] is None
        assert len(scores) == len(PROMPT)
        for place, score in enumerate(scores[1:], 1):
            assert score is not None
            assert score.token_id == PROMPT[place]
            assert score.logprob == pytest.approx(float(expected[place - 1, PROMPT[place]]), abs=2e-4)
            best = expected[place - 1].topk(3)
            assert [token for token, _ in score.top] == best.indices.tolist()
            assert [value for _, value in score.top] == pytest.approx(best.values.tolist(), abs=2e-4)


def test_all_answers_to_a_prompt_carry_its_log_probabilities() -> None:
    request = Request(prompt_ids=[3, 1, 4, 1, 5], max_new_tokens=3, sampling=GREEDY, n=2, prompt_logprobs=0)
    answers = engine_of(HashExecutor(), prefill_chunk=2).run([request])[0].answers
    assert answers[0].prompt_logprobs == answers[1].prompt_logprobs
    assert answers[0].prompt_logprobs is not None
    assert [one and one.token_id for one in answers[0].prompt_logprobs] == [None, 1, 4, 1, 5]


# --- hidden states ---


@pytest.mark.parametrize("model", MODELS)
def test_embeddings_are_transformers_last_hidden_states_pooled(
    executor_of: Callable[[str], Executor], model: str
) -> None:
    theirs = reference_model(tiny(model))
    prompts = [PROMPT, [9], PROMPT[:5]]
    engine = Engine(executor_of(model), prefill_chunk=4)
    states = [
        theirs(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0].numpy()  # type: ignore[operator]
        for ids in prompts
    ]
    scale = max(np.abs(rows).max() for rows in states)
    for _ in range(2):  # once more, with a past that may be reused
        last, mean = engine.embed(prompts), engine.embed(prompts, "mean")
        np.testing.assert_allclose(last, [rows[-1] for rows in states], atol=2e-5 * scale)
        np.testing.assert_allclose(mean, [rows.mean(0) for rows in states], atol=2e-5 * scale)


@pytest.mark.parametrize("model", MODELS[:1])
def test_an_embedding_is_the_same_in_company(executor_of: Callable[[str], Executor], model: str) -> None:
    executor = executor_of(model)
    alone = [Engine(executor, prefill_chunk=4).embed([ids], "mean")[0] for ids in (PROMPT, PROMPT[:3])]
    engine = Engine(executor, prefill_chunk=4)
    writing = engine.add(Request(prompt_ids=[8, 9, 10], max_new_tokens=9, sampling=GREEDY, stop_token_ids=()))
    for row, expected in zip(engine.embed([PROMPT, PROMPT[:3]], "mean"), alone, strict=True):
        assert (row == expected).all()
    engine.cancel(writing)
    engine.step()


def test_what_only_an_answer_has_is_refused_of_a_prompt_that_is_pooled_and_it_may_fill_the_context() -> None:
    for options in ({"max_new_tokens": 3}, {"n": 2}, {"logprobs": 1}, {"sampling": GREEDY}):
        with pytest.raises(RequestError, match=next(iter(options))):
            Request(prompt_ids=[1], pooling="last", **options)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="last, mean"):
        Request(prompt_ids=[1], pooling="max")  # type: ignore[arg-type]
    engine = engine_of(HashExecutor(context_len=10))
    assert engine.run([Request(prompt_ids=[1] * 10, pooling="mean")])[0].answers[0].embedding is not None
    with pytest.raises(ContextLengthError):
        engine.embed([[1] * 11])


def test_an_embedding_that_is_not_finite_is_named() -> None:
    executor = HashExecutor()
    executor.hidden = lambda inputs: np.full((1, 2), np.nan, np.float32)  # type: ignore[method-assign]
    with pytest.raises(NotFiniteError):
        engine_of(executor).embed([[1, 2]])
