"""The engine over the native executor: a past that is reused and guesses ahead change nothing, to the last bit of the
log-probabilities.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from clairvoyant import Clairvoyant
from reference import tiny

from pellucid.generate import Answer, DraftModel, Engine, PromptLookup, Request
from pellucid.model.load import weights_of
from pellucid.native.build import compiler
from pellucid.native.executor import NativeExecutor
from pellucid.sampling import GREEDY, SamplingParams

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`"),
    pytest.mark.usefixtures("private_cache"),
]


@pytest.fixture(scope="module", params=[("llama", None), ("llama", "q8"), ("llama", "q4"), ("qwen2", None)], ids=str)
def executors(request: pytest.FixtureRequest, private_cache: object) -> Iterator[tuple[NativeExecutor, NativeExecutor]]:
    """The model, and the same once more as its draft. In blocks of integers products are other ones; qwen2 has a
    sliding window.
    """
    family, quantize = request.param
    decoder = tiny(family)
    both = [
        NativeExecutor(decoder.config, dict(weights_of(decoder)), quantize=quantize, threads=2, flags=("-O1",))
        for _ in range(2)
    ]
    yield both[0], both[1]
    for executor in both:
        executor.close()


def told(answer: Answer) -> tuple[object, ...]:
    return answer.token_ids, answer.finish_reason, answer.logprobs


@pytest.mark.parametrize("speculate", ["nothing", "clairvoyant", "lookup", "draft"])
def test_a_conversation_is_the_same_bit_for_bit(
    executors: tuple[NativeExecutor, NativeExecutor], speculate: str
) -> None:
    executor, draft = executors

    def fresh(request: Request) -> tuple[Answer, ...]:
        return Engine(executor, reuse=False).run([request])[0].answers

    guessing = {
        "nothing": None,
        "clairvoyant": Clairvoyant(fresh),
        "lookup": PromptLookup(),
        "draft": DraftModel(draft),
    }[speculate]
    engine, chance = Engine(executor, speculate=guessing), random.Random(1)
    prompt = [chance.randrange(executor.config.vocab_size) for _ in range(10)]
    for turn in range(4):
        sampling = GREEDY if turn % 2 else SamplingParams(seed=turn, top_p=0.9, repetition_penalty=1.2)
        request = Request(prompt_ids=prompt, max_new_tokens=8, sampling=sampling, logprobs=3, stop_token_ids=())
        (answer,) = engine.run([request])[0].answers
        assert told(answer) == told(fresh(request)[0])
        assert answer.timings.reused_tokens == (len(prompt) - 4 if turn else 0), (
            "all but the last answer's last token and three new ones"
        )
        if speculate == "draft":
            assert answer.timings.accepted_tokens == answer.timings.guessed_tokens > 0
        prompt = [*prompt, *answer.token_ids, *(chance.randrange(executor.config.vocab_size) for _ in range(3))]
