"""Mixers that go through a text in order: in one go or token by token, packed or padded, from a forked state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import tiny

from pellucid.config.recurrent import Recurrent
from pellucid.executor import StepInput
from pellucid.families import FAMILIES
from pellucid.model.cache import Cache
from pellucid.model.context import Context
from pellucid.model.convolve import Convolution
from pellucid.model.executor import TorchExecutor
from pellucid.model.recurrent_state import RecurrentState
from pellucid.train.data.batch import Batch

FAMILIES_WITH = [
    name
    for name, family in FAMILIES.items()
    if any(isinstance(layer.mixer, Recurrent) for layer in family.config(family.TINY).layers)
]
EVERY = pytest.mark.parametrize("family", FAMILIES_WITH)


def test_a_convolution_by_worked_example() -> None:
    conv = Convolution(1, 3, bias=True)
    conv.weight.data = torch.tensor([[4.0, 2.0, 1.0]])
    assert conv.bias is not None
    conv.bias.data.fill_(0.5)
    y, last = conv(torch.tensor([[[1.0], [10.0], [100.0], [1000.0]]]))
    assert y.flatten().tolist() == [1.5, 12.5, 124.5, 1240.5]
    assert last.flatten().tolist() == [100.0, 1000.0]


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 5), cuts=st.lists(st.integers(1, 6), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_a_convolution_in_parts_is_the_one_of_the_whole_bit_for_bit(width: int, cuts: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    conv = Convolution(3, width, bias=False)
    conv.weight.data = torch.randn(3, width, generator=generator)
    u = torch.randn(2, sum(cuts), 3, generator=generator)
    before, parts = torch.zeros(2, width - 1, 3), []
    for part in u.split(cuts, 1):
        y, before = conv(part, before)
        parts.append(y)
    assert torch.equal(torch.cat(parts, 1), conv(u)[0])
    weight = conv.weight.data[:, None]
    padded = torch.nn.functional.pad(u.mT, (width - 1, 0))
    torch.testing.assert_close(conv(u)[0].mT, torch.nn.functional.conv1d(padded, weight, groups=3))


@EVERY
@torch.no_grad()
def test_texts_packed_into_a_row_are_what_they_are_alone(family: str) -> None:
    decoder = tiny(family)
    lengths = [[9, 1, 2, 12], [24]]
    ids = torch.randint(0, decoder.config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(3))
    segments = torch.tensor([[i for i, n in enumerate(row) for _ in range(n)] for row in lengths])
    positions = torch.tensor([[place for n in row for place in range(n)] for row in lengths])
    packed = decoder(ids, Batch(ids, ids, positions, segments).context())
    for row, parts in enumerate(lengths):
        start = 0
        for length in parts:
            text = ids[row : row + 1, start : start + length]
            alone = decoder(text, Context(torch.arange(length)[None]))
            torch.testing.assert_close(packed[row : row + 1, start : start + length], alone, rtol=1e-4, atol=1e-4)
            start += length


@EVERY
def test_gradients_of_packed_texts_are_those_of_the_texts(family: str) -> None:
    decoder = tiny(family)
    first = dict(decoder.layers[0].named_parameters())
    named = ("mlp.up_proj.weight", "mlp.router.weight", "A_log")  # of a layer without an MLP, how its state fades
    weight = next(first[name] for end in named for name in first if name.endswith(end))
    ids = torch.randint(0, decoder.config.vocab_size, (1, 12), generator=torch.Generator().manual_seed(3))
    positions = torch.tensor([[*range(5), *range(7)]])
    weight.requires_grad_(True)
    try:
        packed = Batch(ids, ids, positions, torch.tensor([[0] * 5 + [1] * 7])).context()
        (together,) = torch.autograd.grad(decoder(ids, packed).square().sum(), weight)
        apart = sum(
            torch.autograd.grad(decoder(text, Context(torch.arange(text.shape[1])[None])).square().sum(), weight)[0]
            for text in ids.split([5, 7], 1)
        )
    finally:
        weight.requires_grad_(False)
    assert isinstance(apart, torch.Tensor)
    torch.testing.assert_close(together, apart, rtol=1e-3, atol=1e-3 * apart.abs().max().item())


@EVERY
def test_a_state_goes_back_over_its_last_step_and_no_further(family: str) -> None:
    executor = TorchExecutor(tiny(family))
    slot = executor.allocate(16)
    executor.step([StepInput(slot, [5, 9, 2], ())])
    executor.step([StepInput(slot, [7, 3], ())])
    assert executor.rollback == 0
    assert [length for length in range(6) if executor.reaches(slot, length)] == [0, 3, 5]
    fork = executor.fork(slot, 16, 3)
    executor.truncate(slot, 3)
    rows = executor.step([StepInput(slot, [7], (0,)), StepInput(fork, [7], (0,))]).numpy()
    assert (rows[0] == rows[1]).all()
    fresh = executor.allocate(16)
    executor.step([StepInput(fresh, [5, 9, 2], ())])
    assert (executor.step([StepInput(fresh, [7], (0,))]).numpy()[0] == rows[0]).all()


@EVERY
def test_a_step_that_is_interrupted_leaves_the_slot_as_it_was(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = TorchExecutor(tiny(family))
    slot, other = executor.allocate(16), executor.allocate(16)
    executor.step([StepInput(slot, [5, 9], ()), StepInput(other, [5, 9], ())])

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        last = executor.decoder.layers[-1]
        if executor.config.layers[-1].mlp:
            patch.setattr(last, "think", interrupt)
        else:
            patch.setattr(executor.decoder.final_norm, "forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            executor.step([StepInput(slot, [2, 3, 4], (0,))])
    assert executor.length(slot) == 2
    rows = executor.step([StepInput(slot, [7], (0,)), StepInput(other, [7], (0,))]).numpy()
    assert (rows[0] == rows[1]).all()


@EVERY
def test_what_a_sequence_keeps_does_not_grow_and_is_what_the_description_says(family: str) -> None:
    decoder = tiny(family)
    cache = Cache(decoder.config, 1, 32, torch.float32)
    for count in (9, 1):
        ids = torch.arange(count)[None] + 3
        decoder(ids, Context(torch.arange(cache.length, cache.length + count)[None], cache=cache))
        for layer, state in zip(decoder.config.layers, cache.layers, strict=True):
            if isinstance(state, RecurrentState):
                size = sum(state[name].nbytes for name in layer.mixer.state_shapes)
                assert size == layer.mixer.state_bytes(cache.length, 4)
                assert state.length == cache.length
