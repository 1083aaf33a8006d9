"""The engine over the torch executor: answers, and their log-probabilities to the last bit, are the same alone and in a
batch.
"""

from __future__ import annotations

import random

import pytest
import torch
from clairvoyant import Clairvoyant
from reference import reference_model, telling, tiny

from pellucid.families import FAMILIES
from pellucid.generate import Answer, Engine, Request, generate
from pellucid.model.decoder import Decoder
from pellucid.model.executor import TorchExecutor
from pellucid.sampling import GREEDY, SamplingParams


def told(answer: Answer) -> tuple[object, ...]:
    """Tokens, and log-probabilities as floats: equal only where the logits are equal bit for bit."""
    return answer.index, answer.token_ids, answer.finish_reason, answer.logprobs


@pytest.mark.parametrize("family", telling(list(FAMILIES)))
@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_answers_in_a_changing_batch_equal_the_answers_alone_bit_for_bit(family: str, threads: int) -> None:
    before, executor = torch.get_num_threads(), TorchExecutor(tiny(family))
    torch.set_num_threads(threads)
    try:
        chance = random.Random(family)
        size = executor.config.vocab_size
        requests = [
            Request(
                prompt_ids=[chance.randrange(size) for _ in range(chance.randint(1, 20))],
                max_new_tokens=chance.randint(1, 9),
                sampling=GREEDY if place % 2 else SamplingParams(seed=place, top_p=0.9, repetition_penalty=1.2),
                logprobs=3,
                n=chance.choice((1, 1, 2)),
            )
            for place in range(10)
        ]
        engine = Engine(executor, max_batch=5, prefill_chunk=6, max_tokens_per_step=17)
        expected = [
            told(answer)
            for request in requests
            for answer in Engine(executor, prefill_chunk=6).run([request])[0].answers
        ]
        answers, line, places = {}, list(enumerate(requests)), {}
        while line or engine.has_work:
            for _ in range(chance.randint(0, 3)):
                if line:
                    place, request = line.pop(0)
                    places[engine.add(request)] = place
            for event in engine.step():
                if event.answer is not None:
                    answers[places[event.request_id], event.index] = told(event.answer)
        assert [answers[key] for key in sorted(answers)] == expected
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("family", telling(list(FAMILIES)))
def test_a_conversation_that_reuses_its_past_and_guesses_ahead_is_the_same_bit_for_bit(family: str) -> None:
    """Four turns. Whole chunks of earlier prompts are reused; windows (qwen2) take wrong guesses back, too."""
    executor, chance = TorchExecutor(tiny(family)), random.Random(family)
    size = executor.config.vocab_size

    def fresh(request: Request) -> tuple[Answer, ...]:
        return Engine(executor, prefill_chunk=4, reuse=False).run([request])[0].answers

    guesses = executor.rollback != 0  # a recurrent state takes no wrong guess back, and stops at no earlier place
    engine = Engine(executor, prefill_chunk=4, speculate=Clairvoyant(fresh) if guesses else None)
    prompt, reused = [chance.randrange(size) for _ in range(6)], []
    for turn in range(4):
        sampling = GREEDY if turn % 2 else SamplingParams(seed=turn, top_p=0.9, repetition_penalty=1.2)
        request = Request(prompt_ids=prompt, max_new_tokens=8, sampling=sampling, logprobs=3, stop_token_ids=())
        (answer,) = engine.run([request])[0].answers
        assert told(answer) == told(fresh(request)[0])
        assert (answer.timings.guessed_tokens > 0) == guesses
        reused.append(answer.timings.reused_tokens)
        prompt = [*prompt, *answer.token_ids, *(chance.randrange(size) for _ in range(3))]
    assert reused == [0, 4, 16, 28] if guesses else [0, 0, 0, 0]


def test_guesses_where_frequencies_follow_from_the_length_are_computed_as_one_by_one() -> None:
    """With dynamic rope scaling a token's rotation depends on how many there are by then; and no past can be reused."""
    scaling = {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 16}
    decoder = Decoder(FAMILIES["llama"].config(FAMILIES["llama"].TINY | {"rope_scaling": scaling}))
    decoder.initialize(torch.Generator().manual_seed(0))
    executor = TorchExecutor(decoder.eval())

    def fresh(request: Request) -> tuple[Answer, ...]:
        return Engine(executor, reuse=False).run([request])[0].answers

    engine = Engine(executor, speculate=Clairvoyant(fresh))
    request = Request(prompt_ids=range(1, 11), max_new_tokens=30, sampling=GREEDY, logprobs=2, stop_token_ids=())
    for _ in range(2):
        (answer,) = engine.run([request])[0].answers
        assert told(answer) == told(fresh(request)[0])
        assert answer.timings.accepted_tokens > 0
        assert answer.timings.reused_tokens == 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_greedy_answers_to_a_batch_equal_transformers_one_by_one(family: str) -> None:
    decoder = tiny(family)
    theirs = reference_model(decoder)
    prompts = [[5, 17, 3, 88, 41, 7, 2], [9], [30, 31, 32, 33]]
    results = generate(TorchExecutor(decoder), prompts, max_new_tokens=12, stop_token_ids=(), prefill_chunk=3)
    for prompt, result in zip(prompts, results, strict=True):
        output = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
        )  # type: ignore[operator]
        assert output[0].tolist() == [*prompt, *result.token_ids]


def test_greedy_answers_with_a_repetition_penalty_equal_transformers() -> None:
    decoder, prompt = tiny("llama"), [5, 17, 3, 88, 41, 7, 2]
    options = {
        "max_new_tokens": 16,
        "do_sample": False,
        "repetition_penalty": 1.4,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    output = reference_model(decoder).generate(torch.tensor([prompt]), **options)  # type: ignore[operator]
    sampling = SamplingParams(do_sample=False, repetition_penalty=1.4)
    (result,) = generate(TorchExecutor(decoder), [prompt], max_new_tokens=16, sampling=sampling, stop_token_ids=())
    assert output[0].tolist() == [*prompt, *result.token_ids]
