"""Every family, held to an implementation that no one here wrote, and to itself: alone or together, fast or slow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reference import MODELS, reference_logits, telling, tiny, tiny_hf

from pellucid.config import weight_shapes
from pellucid.executor import StepInput
from pellucid.families import FAMILIES
from pellucid.families.translation.rules import to_ours, to_theirs
from pellucid.model.attend import explicit
from pellucid.model.cache import Cache
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.executor import TorchExecutor
from pellucid.model.load import load_decoder, weights_of

EVERY = pytest.mark.parametrize("model", MODELS)  # and every variant of each: what a family says of itself
TELLING = pytest.mark.parametrize("model", telling())  # what follows from the description
LENGTH = 24


def tokens(decoder: Decoder, batch: int = 2, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(0, decoder.config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(7))


def plain(token_ids: torch.Tensor, **changed: Any) -> Context:
    return Context(positions=torch.arange(token_ids.shape[1]).expand_as(token_ids), **changed)


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Within ``tolerance`` of the logit scale: float32 sums taken in another order differ by about 1e-6 of it."""
    scale = theirs.abs().max().item()
    assert (ours - theirs).abs().max().item() <= tolerance * scale


@EVERY
@torch.no_grad()
def test_logits_equal_the_reference_implementation(model: str) -> None:
    decoder = tiny(model)
    token_ids = tokens(decoder)
    assert_close(decoder(token_ids, plain(token_ids)), reference_logits(decoder, token_ids))


@TELLING
@torch.no_grad()
def test_decode_after_prefill_matches_full_forward(model: str) -> None:
    decoder = tiny(model)
    token_ids = tokens(decoder)
    full = decoder(token_ids, plain(token_ids))
    cache = Cache(decoder.config, 2, LENGTH, torch.float32)
    steps = [token_ids[:, :9], token_ids[:, 9:12], *token_ids[:, 12:].split(1, 1)]
    logits = []
    for step in steps:
        positions = torch.arange(cache.length, cache.length + step.shape[1]).expand_as(step)
        logits.append(decoder(step, Context(positions, cache=cache)))
    assert_close(torch.cat(logits, 1), full)


@TELLING
def test_a_request_in_a_ragged_batch_equals_the_request_alone_bit_for_bit(model: str) -> None:
    executor = TorchExecutor(tiny(model))
    sequences = [row.tolist()[: 5 + 4 * i] for i, row in enumerate(tokens(executor.decoder, batch=4))]

    def alone(ids: list[int]) -> list[np.ndarray]:
        slot = executor.allocate(LENGTH)
        rows = [executor.step([StepInput(slot, ids[:4], (3,))]).numpy()]
        return rows + [executor.step([StepInput(slot, [i], (0,))]).numpy() for i in ids[4:]]

    expected = [alone(ids) for ids in sequences]
    slots = [executor.allocate(LENGTH) for _ in sequences]
    got: list[list[np.ndarray]] = [[] for _ in sequences]
    for step in range(LENGTH):  # request r joins at step r, while the others are decoding
        running = [r for r, ids in enumerate(sequences) if r <= step and 4 + step - r <= len(ids)]
        if not running:
            break
        inputs = [
            StepInput(
                slots[r], sequences[r][:4] if step == r else [sequences[r][3 + step - r]], (3,) if step == r else (0,)
            )
            for r in running
        ]
        for r, row in zip(running, executor.step(inputs).numpy(), strict=True):
            got[r].append(row[None])
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(np.concatenate(mine), np.concatenate(theirs))


@TELLING
@torch.no_grad()
def test_explained_equals_fast(model: str) -> None:
    decoder = tiny(model)
    token_ids = tokens(decoder)
    assert_close(decoder(token_ids, plain(token_ids, attend=explicit)), decoder(token_ids, plain(token_ids)))


@TELLING
@torch.no_grad()
def test_left_padding_changes_nothing(model: str) -> None:
    decoder = tiny(model)
    token_ids = tokens(decoder)
    mask = torch.ones_like(token_ids, dtype=torch.bool)
    mask[0, :7] = False
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    padded = decoder(token_ids, Context(positions, key_mask=mask))
    alone = token_ids[:1, 7:]
    assert_close(padded[:1, 7:], decoder(alone, plain(alone)))
    assert_close(padded[1], decoder(token_ids, plain(token_ids))[1])


@EVERY
def test_names_round_trip_bit_for_bit_and_every_weight_is_used(model: str) -> None:
    decoder = tiny(model)
    rules = FAMILIES[decoder.config.model_type].WEIGHTS
    ours = dict(weights_of(decoder))
    theirs = dict(to_theirs(decoder.config, rules, ours))
    makers = to_ours(decoder.config, rules, theirs, model)
    assert set(makers) == set(weight_shapes(decoder.config))
    for name, array in ours.items():
        np.testing.assert_array_equal(makers[name]()[name].data, array.data)


@EVERY
def test_config_round_trips_and_keeps_unknown_keys(model: str) -> None:
    hf = tiny_hf(model)
    module = FAMILIES[hf["model_type"]]
    config = module.config(hf | {"a_key_of_tomorrow": [1, {"two": 3}]})
    assert module.config(module.to_hf(config)) == config
    assert module.to_hf(config)["a_key_of_tomorrow"] == [1, {"two": 3}]


@EVERY
def test_the_decoder_has_exactly_the_described_weights(model: str) -> None:
    decoder = tiny(model)
    assert {name: tuple(p.shape) for name, p in decoder.named_parameters()} == weight_shapes(decoder.config)
    assert sum(p.numel() for p in decoder.parameters()) == decoder.config.num_parameters()


@TELLING
@torch.no_grad()
def test_loading_the_same_arrays_gives_the_same_logits(model: str) -> None:
    decoder = tiny(model)
    again = load_decoder(decoder.config, dict(weights_of(decoder)), dtype="float32", device="cpu")
    token_ids = tokens(decoder)
    assert torch.equal(again(token_ids, plain(token_ids)), decoder(token_ids, plain(token_ids)))
