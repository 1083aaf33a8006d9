"""Many slots by one call: every family's numbers are those of ``TorchExecutor``, whoever joins, leaves or forks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.utils.stateless
from reference import telling, tiny_hf
from torch import Tensor

from pellucid.base.errors import ContextLengthError
from pellucid.executor import StepInput
from pellucid.families import FAMILIES
from pellucid.generate import Engine, Request
from pellucid.model.batched.executor import BatchedExecutor, capturable
from pellucid.model.batched.graphs import Call, Graphs
from pellucid.model.batched.pool import Pool
from pellucid.model.decoder import Decoder
from pellucid.model.executor import TorchExecutor
from pellucid.sampling import SamplingParams


def decoder_of(model: str) -> Decoder:
    hf = tiny_hf(model)
    config = FAMILIES[hf["model_type"]].config(hf)
    decoder = Decoder(config).initialize(torch.Generator().manual_seed(1)).eval()
    with torch.no_grad():  # fresh weights are so small that every token is as likely as another
        for name, weight in decoder.named_parameters():
            if weight.ndim > 1 and "A_log" not in name:
                weight.mul_(4)
    return decoder


def prompt(length: int, seed: int, vocab_size: int) -> list[int]:
    return random.Random(seed).choices(range(vocab_size), k=length)


@pytest.mark.parametrize("model", telling())
def test_a_token_of_each_slot_by_one_call_has_the_logits_of_calls_of_their_own(model: str):
    """Slots of 40, 3 and 17 tokens; the second ends, a fourth joins, one is copied, one is cut back."""
    decoder = decoder_of(model)
    vocab, most = decoder.config.vocab_size, min(decoder.config.longest_context, 64)
    batched, alone = BatchedExecutor(decoder), TorchExecutor(decoder)
    slots: list[tuple[int, int]] = []  # of either executor

    def add(length: int) -> None:
        ids = prompt(length, len(slots), vocab)
        slots.append((batched.allocate(most), alone.allocate(most)))
        agree([(slots[-1], ids)])

    def agree(entries: list[tuple[tuple[int, int], list[int]]]) -> None:
        inputs = [[StepInput(pair[i], ids, (len(ids) - 1,)) for pair, ids in entries] for i in (0, 1)]
        expected = np.concatenate([alone.step([entry]).numpy() for entry in inputs[1]])
        got = batched.step(inputs[0]).numpy()
        assert np.abs(got - expected).max() <= 2e-5 * np.abs(expected).max()

    for length in (min(40, most - 8), 3, 17):
        add(length)
    for turn in range(2):
        agree([(slot, [turn + 1]) for slot in slots])
    batched.free(slots[1][0])
    del slots[1]
    agree([(slots[1], [5])])  # the one behind the gap
    slots.append((batched.fork(slots[0][0], most), alone.fork(slots[0][1], most)))
    add(9)
    agree([(slots[0], [7]), (slots[2], [8]), (slots[3], [9])])
    if alone.rollback is None:
        for slot, executor in zip(slots[3], (batched, alone), strict=True):
            executor.truncate(slot, 6)
    agree([(slots[3], prompt(4, 99, vocab)), (slots[1], [3])])  # a chunk beside a decode
    agree([(slot, [11]) for slot in reversed(slots)])
    assert [batched.length(slot) for slot, _ in slots] == [alone.length(slot) for _, slot in slots]


@pytest.mark.parametrize("model", ["llama", "qwen3_next", "gpt_oss", "deepseek_v3", "mamba2"])
def test_an_engine_writes_the_same_answers(model: str):
    decoder = decoder_of(model)
    requests = [
        Request(
            prompt_ids=prompt(length, length, decoder.config.vocab_size),
            max_new_tokens=12,
            stop_token_ids=(),
            sampling=SamplingParams(do_sample=sampled, seed=length),
            n=1 + (length == 5),
        )
        for length, sampled in ((5, True), (21, False), (33, True), (2, False))
    ]
    answers = [
        [[answer.token_ids for answer in result.answers] for result in Engine(executor, max_batch=3).run(requests)]
        for executor in (BatchedExecutor(decoder), TorchExecutor(decoder))
    ]
    assert answers[0] == answers[1]


@dataclass
class Replayed:
    """As a CUDA graph: it runs what it recorded, where the weights lay then, and nobody hears of it."""

    call: Callable[[Tensor], Tensor]
    inputs: Tensor
    logits: Tensor
    num_runs: int = 0

    @property
    def graph(self) -> Replayed:
        return self

    def replay(self) -> None:
        self.num_runs += 1
        self.logits.copy_(self.call(self.inputs))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Replayed]:
    """Graphs without a GPU, as they are recorded."""
    made: list[Replayed] = []

    def record(self: Graphs, pool: Pool, num_keys: int, inputs: Tensor, call: Call) -> Replayed:
        decoder, arrays = self._decoder(), pool.arrays
        assert decoder is not None
        weights = {name: weight.data for name, weight in decoder.named_parameters()}

        def run(inputs: Tensor) -> Tensor:
            now, pool.arrays = pool.arrays, arrays
            try:
                with torch.nn.utils.stateless._reparametrize_module(decoder, weights):
                    return call(pool, num_keys, inputs)
            finally:
                pool.arrays = now

        made.append(Replayed(run, inputs, torch.zeros(inputs.shape[1], decoder.config.vocab_size)))
        return made[-1]

    monkeypatch.setattr(Graphs, "_record", record)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    return made


def test_a_recorded_call_is_left_where_what_it_recorded_has_moved(recorded: list[Replayed]):
    decoder = decoder_of("llama")
    graphs, plain = BatchedExecutor(decoder, graphs=True), BatchedExecutor(decoder, graphs=False)

    def both(do: Callable[[BatchedExecutor], object]) -> None:
        for executor in (graphs, plain):
            do(executor)

    def agree(*slots: int) -> int:
        """The same logits; how many recorded calls ran for that."""
        before = sum(one.num_runs for one in recorded)
        inputs = [StepInput(slot, [slot + 1], (0,)) for slot in slots]
        assert np.array_equal(graphs.step(inputs).numpy(), plain.step(inputs).numpy())
        return sum(one.num_runs for one in recorded) - before

    both(lambda executor: executor.allocate(300))
    both(lambda executor: executor.step([StepInput(0, [1] * 250, ())]))
    assert [agree(0) for _ in range(8)] == [0, 1, 1, 1, 1, 1, 0, 1]  # the 257th key is of a larger call
    assert len(recorded) == 2
    both(lambda executor: executor.allocate(300))  # the pool's arrays lie elsewhere
    both(lambda executor: executor.step([StepInput(1, [1, 2], ())]))
    assert [agree(0, 1) for _ in range(3)] == [0, 1, 1]
    with torch.no_grad():
        part = decoder.get_submodule("layers.0.mlp.up_proj")
        part.get_parameter("weight").mul_(2)  # in its place: the call reads the new numbers
        assert agree(0, 1) == 1
        part.weight = torch.nn.Parameter(part.get_parameter("weight") * 2)
    assert [agree(0, 1) for _ in range(2)] == [0, 1]
    heard: list[int] = []
    hook = decoder.layers[0].register_forward_hook(lambda *_: heard.append(1))
    assert agree(0, 1) == 0
    assert heard
    hook.remove()
    assert agree(0, 1) == 1


def test_what_waits_for_the_device_is_not_recorded():
    assert capturable(decoder_of("llama"))
    assert not capturable(decoder_of("mixtral"))


def test_pools_are_given_back_and_rows_used_again():
    decoder = decoder_of("llama")
    executor = BatchedExecutor(decoder)
    slots = [executor.allocate(30) for _ in range(5)]
    (pool,) = executor._pools.values()
    assert pool.num_rows == 8
    wide = executor.allocate(300)
    assert sorted(executor._pools) == [256, 512]
    executor.free(slots[2])
    executor.allocate(10)
    assert pool.num_rows == 8
    assert pool.owners[2] is not None
    executor.free(wide)
    assert sorted(executor._pools) == [256]


def test_a_step_that_fails_leaves_slots_as_they_were_or_empty(monkeypatch: pytest.MonkeyPatch):
    for model in ("llama", "mamba"):
        decoder = decoder_of(model)
        executor = BatchedExecutor(decoder)
        a, b = executor.allocate(30), executor.allocate(30)
        executor.step([StepInput(slot, [1, 2, 3], (2,)) for slot in (a, b)])
        before = executor.step([StepInput(a, [4], (0,))]).numpy()
        with monkeypatch.context() as patch:
            patch.setattr(decoder, "logits", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                executor.step([StepInput(slot, [4], (0,)) for slot in (a, b)])
        lengths = [executor.length(slot) for slot in (a, b)]
        assert lengths == ([4, 3] if model == "llama" else [0, 0])
        again = executor.step([StepInput(b, [1, 2, 3, 4][lengths[1] :], (3 - lengths[1],))]).numpy()
        assert np.abs(again - before).max() <= 2e-5 * np.abs(before).max()


def test_a_full_slot_is_refused_before_anything_changes():
    executor = BatchedExecutor(decoder_of("llama"))
    a, b = executor.allocate(3), executor.allocate(30)
    executor.step([StepInput(slot, [1, 2, 3], (2,)) for slot in (a, b)])
    with pytest.raises(ContextLengthError):
        executor.step([StepInput(b, [4], (0,)), StepInput(a, [4], (0,))])
    assert [executor.length(slot) for slot in (a, b)] == [3, 3]
