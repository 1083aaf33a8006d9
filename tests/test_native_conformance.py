"""The native executor beside torch: every family's tiny model, step by step, alone and together."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from reference import tiny

from pellucid.base.errors import ContextLengthError, RequestError
from pellucid.executor import Executor, StepInput
from pellucid.families import FAMILIES
from pellucid.model.executor import TorchExecutor
from pellucid.model.load import weights_of
from pellucid.native.build import compiler
from pellucid.native.executor import NativeExecutor
from pellucid.native.claims import supports

EVERY = pytest.mark.parametrize(
    "family", [name for name, its in FAMILIES.items() if supports(its.config(its.TINY)) is None]
)
LENGTH = 40
pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`"),
    pytest.mark.usefixtures("private_cache"),
]


@cache
def native(family: str, threads: int = 2) -> NativeExecutor:
    decoder = tiny(family)
    return NativeExecutor(
        decoder.config, dict(weights_of(decoder)), threads=threads, flags=("-O1",)
    )  # -O1: compiles in a third of the time


def token_ids(count: int = LENGTH, seed: int = 7) -> list[int]:
    return torch.randint(0, 96, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def run(executor: Executor, ids: list[int], cuts: list[int]) -> np.ndarray:
    """The logits of every position, computed in pieces that end at ``cuts``."""
    slot, rows = executor.allocate(len(ids)), []
    for start, stop in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        rows.append(executor.step([StepInput(slot, ids[start:stop], range(stop - start))]).numpy())
    executor.free(slot)
    return np.concatenate(rows)


@EVERY
def test_logits_equal_torch(family: str) -> None:
    """Within 1e-5 of the logit scale: float32 sums in another order. The prefill, small steps, then token by token."""
    ids, cuts = token_ids(), [20, 23, *range(24, LENGTH)]
    expected = run(TorchExecutor(tiny(family)), ids, cuts)
    assert np.abs(run(native(family), ids, cuts) - expected).max() <= 1e-5 * np.abs(expected).max()


@EVERY
def test_numbers_do_not_depend_on_how_tokens_are_split_into_steps_bit_for_bit(family: str) -> None:
    ids = token_ids()
    whole = run(native(family), ids, [])
    for cuts in ([1], [20, 23], list(range(1, LENGTH)), [7, 8, 17]):
        np.testing.assert_array_equal(run(native(family), ids, cuts), whole)


@EVERY
def test_a_request_in_a_ragged_batch_equals_the_request_alone_bit_for_bit(family: str) -> None:
    executor = native(family)
    requests = [token_ids(8 + 5 * i, seed=i) for i in range(5)]
    alone = [run(executor, ids, [4]) for ids in requests]
    slots = [executor.allocate(LENGTH) for _ in requests]
    got: list[list[np.ndarray]] = [[] for _ in requests]
    for step in range(LENGTH):  # request r joins at step r with four tokens, while the others are decoding
        inputs = []
        for r, ids in enumerate(requests):
            done = executor.length(slots[r])
            if step >= r and done < len(ids):
                new = ids[done : done + (1 if done else 4)]
                inputs.append((r, StepInput(slots[r], new, range(len(new)))))
        if inputs:
            rows = iter(executor.step([given for _, given in inputs]).numpy())
            for r, given in inputs:
                got[r] += [next(rows) for _ in given.wanted]
    for mine, expected in zip(got, alone, strict=True):
        np.testing.assert_array_equal(np.array(mine), expected)


@EVERY
def test_step_by_step_the_fast_path_has_torchs_numbers(family: str) -> None:
    """Every tap of the compiled program, within 1e-5 of that tap's own scale."""
    from pellucid.explain.trace import trace as explained
    from pellucid.native.trace import NOT_HELD, trace

    decoder, ids = tiny(family), token_ids(11)
    expected, got = (
        explained(decoder, None, ids),
        trace(decoder.config, dict(weights_of(decoder)), ids, threads=2, flags=("-O1",)),
    )
    assert {path for path in expected if expected.tap(path).name not in NOT_HELD} == set(got)
    for path, values in got.items():
        exact = expected[path].numpy()[0]
        assert np.abs(values - exact).max() <= 1e-5 * np.abs(exact).max(), path


def test_numbers_do_not_depend_on_the_number_of_threads_bit_for_bit() -> None:
    ids = token_ids()
    np.testing.assert_array_equal(run(native("llama", 1), ids, [9, 10]), run(native("llama", 3), ids, [9, 10]))


def test_a_fork_continues_like_its_origin_and_leaves_it_alone() -> None:
    executor, ids = native("qwen3"), token_ids()
    whole = run(executor, ids, [])
    slot = executor.allocate(LENGTH)
    executor.step([StepInput(slot, ids[:21], ())])
    fork = executor.fork(slot, LENGTH)
    executor.step([StepInput(fork, [5, 6, 7], ())])
    executor.truncate(fork, 21)
    for its in (fork, slot):
        np.testing.assert_array_equal(executor.step([StepInput(its, ids[21:], (18,))]).numpy()[0], whole[-1])
        assert executor.length(its) == LENGTH


def test_argmax_is_the_lowest_index_on_a_tie() -> None:
    executor = native("llama")
    logits = executor.step([StepInput(executor.allocate(4), [1, 2], (1,))])
    assert logits.argmax()[0] == int(np.argmax(logits.numpy()[0]))


def test_a_step_that_is_refused_changes_nothing() -> None:
    executor = native("gpt2")
    slot = executor.allocate(8)
    executor.step([StepInput(slot, [1, 2, 3], ())])
    for ids, error in (
        ([4, 96], RequestError),
        ([-1], RequestError),
        ([], RequestError),
        ([1] * 6, ContextLengthError),
    ):
        with pytest.raises(error):
            executor.step([StepInput(slot, ids, ())])
    long = executor.allocate(200)
    with pytest.raises(ContextLengthError):  # 64 learned positions
        executor.step([StepInput(long, [1] * 65, ())])
    with pytest.raises(ContextLengthError):
        executor.truncate(slot, 4)
    assert executor.length(slot) == 3
    assert executor.length(long) == 0


@pytest.mark.parametrize("family", ["llama", "qwen2"])  # the second with a sliding window
def test_a_long_context_equals_torch_and_itself_however_it_is_split_and_shared(family: str) -> None:
    """1,100 tokens: more than one step, more than two of attention's chunks, and multiples of nothing."""
    ids = token_ids(1100)
    expected, whole = run(TorchExecutor(tiny(family)), ids, [1000]), run(native(family), ids, [])
    assert np.abs(whole - expected).max() <= 1e-5 * np.abs(expected).max()
    for threads in (1, 2, 3):  # with several threads, the chunks of a row are shared among them
        np.testing.assert_array_equal(run(native(family, threads), ids, [300, 511, 512, *range(1090, 1100)]), whole)


def test_a_mechanism_that_is_lacking_is_named() -> None:
    config = tiny("llama").config
    unlike = replace(config.layers[1], mlp=replace(config.layers[1].mlp, d_ff=2 * config.layers[1].mlp.d_ff))
    assert supports(replace(config, layers=(config.layers[0], unlike))) == "layers of different shapes"
    assert supports(config) is None


FACTORS = {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [2.0, 3.0, 4.0, 5.0]}


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 24, **FACTORS},
    ],
    ids=lambda scaling: scaling["rope_type"],
)
def test_scalings_by_length_equal_torch_in_every_split(scaling: dict) -> None:
    """Before the original length, across it and beyond; by a prefill, by steps, and by guesses that are checked."""
    from pellucid.model.decoder import Decoder

    family = FAMILIES["llama"]
    config = family.config(family.TINY | {"rope_scaling": scaling, "max_position_embeddings": 24})
    config = replace(config, context_len=LENGTH)
    decoder = Decoder(config)
    decoder.load_state_dict(tiny("llama").state_dict())
    decoder.requires_grad_(False).eval()
    torch_executor, executor = (
        TorchExecutor(decoder),
        NativeExecutor(config, dict(weights_of(decoder)), threads=2, flags=("-O1",)),
    )
    assert executor.splits_matter
    ids = token_ids()
    for cuts in ([], [20, 23], list(range(18, LENGTH))):
        expected = run(torch_executor, ids, cuts)
        assert np.abs(run(executor, ids, cuts) - expected).max() <= 1e-5 * np.abs(expected).max()
    checked = executor.step([StepInput(executor.allocate(LENGTH), ids, range(LENGTH), one_by_one=True)]).numpy()
    np.testing.assert_array_equal(checked, run(executor, ids, list(range(1, LENGTH))))


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 4.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    ],
    ids=lambda scaling: scaling["rope_type"],
)
def test_rope_scalings_equal_torch(scaling: dict) -> None:
    from pellucid.model.position import inverse_frequencies
    from pellucid.native.rotary import frequencies

    rope = (
        FAMILIES["llama"]
        .config(FAMILIES["llama"].TINY | {"rope_scaling": scaling, "head_dim": 64})
        .layers[0]
        .mixer.rope
    )
    assert rope is not None
    np.testing.assert_allclose(frequencies(rope), inverse_frequencies(rope).numpy(), rtol=2e-6)
