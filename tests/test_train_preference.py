"""DPO: the loss is the paper's, its reference costs no second model, any split of the pairs gives the same gradient."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import tiny
from torch import Tensor

from pellucid.base.errors import ConfigError, RequestError
from pellucid.model.decoder import Decoder
from pellucid.train.data.batch import IGNORED, Batch
from pellucid.train.lora import LoraSettings, attach_lora, lora_layers
from pellucid.train.objectives.preference import (
    PreferenceBatch,
    PreferenceSettings,
    pair_log_probs,
    preference_loss,
    preference_scores,
)
from pellucid.train.runs.loop import accumulate


def rows(num: int, length: int, seed: int, answer: int = 4) -> Batch:
    """Texts whose last tokens are the answer, of different lengths."""
    ids = torch.randint(96, (num, length + 1), generator=torch.Generator().manual_seed(seed))
    targets = ids[:, 1:].clone()
    for row in range(num):
        targets[row, : length - answer - row % 3] = IGNORED
    return Batch.of(ids[:, :-1], targets)


def pairs(num: int = 4) -> PreferenceBatch:
    return PreferenceBatch.of_pairs(rows(num, 12, seed=1), rows(num, 9, seed=2, answer=2))


def model_with_lora(noise: float = 0.1) -> Decoder:
    model = copy.deepcopy(tiny("llama"))
    attach_lora(model, LoraSettings(rank=2), torch.Generator().manual_seed(3))
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_b.normal_(0, noise, generator=torch.Generator().manual_seed(4))
    return model


def plain_log_probs(model: Decoder, batch: Batch) -> Tensor:
    """Σ log p of each row's answer, from whole logits."""
    log_p = model(batch.token_ids, batch.context()).log_softmax(-1)
    each = log_p.gather(-1, batch.targets.clamp(min=0)[..., None])[..., 0]
    return (each * (batch.targets != IGNORED)).sum(-1)


def gradients(model: Decoder) -> dict[str, Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


# --- the formula -----------------------------------------------------------------------------------------------------


def test_a_margin_of_nothing_costs_log_2() -> None:
    model = model_with_lora(noise=0.0)
    loss = preference_loss(model, pairs(3))
    assert loss.total.item() == pytest.approx(3 * math.log(2))
    assert (loss.margin.item(), loss.num_right.item(), loss.num_targets) == (0.0, 0, 3)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_value_rewards_and_gradients_are_the_formulas(smoothing: float) -> None:
    model, base, beta, its = model_with_lora(), tiny("llama"), 0.3, pairs()
    chosen = Batch.of(its.token_ids[0::2], its.targets[0::2])
    rejected = Batch.of(its.token_ids[1::2], its.targets[1::2])
    gain_chosen = plain_log_probs(model, chosen) - plain_log_probs(base, chosen)
    gain_rejected = plain_log_probs(model, rejected) - plain_log_probs(base, rejected)
    x = beta * (gain_chosen - gain_rejected)
    expected = (-(1 - smoothing) * torch.log(torch.sigmoid(x)) - smoothing * torch.log(torch.sigmoid(-x))).sum()
    expected.backward()
    wanted = gradients(model)

    loss = preference_loss(model, its, PreferenceSettings(beta=beta, label_smoothing=smoothing))
    loss.total.backward()
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(loss.chosen_reward, beta * gain_chosen.sum().detach())
    torch.testing.assert_close(loss.rejected_reward, beta * gain_rejected.sum().detach())
    assert loss.num_right.item() == (gain_chosen > gain_rejected).sum().item()
    torch.testing.assert_close(gradients(model), wanted, rtol=1e-4, atol=1e-5)


def test_ipo_compares_mean_log_probabilities_with_its_mark() -> None:
    model, base, its = model_with_lora(), tiny("llama"), pairs()
    counts = (its.targets != IGNORED).sum(-1)
    gain = ((plain_log_probs(model, its) - plain_log_probs(base, its)) / counts).view(-1, 2)
    loss = preference_loss(model, its, PreferenceSettings(beta=0.2, kind="ipo"))
    torch.testing.assert_close(loss.total, (gain[:, 0] - gain[:, 1] - 2.5).square().sum())


@pytest.mark.parametrize(
    ("its", "loss", "accuracy"),
    [
        (PreferenceSettings(beta=0.3), 0.490897, 0.75),
        (PreferenceSettings(beta=0.3, kind="ipo"), 1.728523, 0.75),
        (PreferenceSettings(beta=0.3, mean_log_probs=True), 0.626736, 0.75),
    ],
)
def test_losses_are_those_of_trl(its: PreferenceSettings, loss: float, accuracy: float) -> None:
    """What trl 1.16.0 gives (``sigmoid``, ``ipo``, ``sigmoid_norm``) for this model and these pairs; gradients agreed
    to 2e-6.
    """
    found = preference_loss(model_with_lora(), pairs(4), its)
    assert found.total.item() / 4 == pytest.approx(loss, abs=1e-5)
    assert found.num_right.item() / 4 == accuracy


def test_settings_out_of_range_are_refused() -> None:
    wrong: list[dict[str, Any]] = [{"beta": 0}, {"label_smoothing": 0.5}, {"kind": "kto"}]
    for given_settings in wrong:
        with pytest.raises(ConfigError):
            PreferenceSettings(**given_settings)


# --- the reference ---------------------------------------------------------------------------------------------------


def test_the_model_without_its_lora_a_frozen_copy_and_figures_made_beforehand_are_the_same_reference() -> None:
    model, base, its = model_with_lora(), tiny("llama"), pairs()
    with torch.no_grad():
        beforehand = PreferenceBatch(its.token_ids, its.targets, its.positions, None, pair_log_probs(base, its))
    losses = [
        preference_loss(model, its),
        preference_loss(model, its, reference=base),
        preference_loss(model, beforehand),
    ]
    assert losses[0].total.item() == losses[1].total.item() == losses[2].total.item()
    assert all(layer.enabled for layer in lora_layers(model).values())


def test_without_a_reference_it_says_what_is_missing() -> None:
    model = copy.deepcopy(tiny("llama")).requires_grad_()
    with pytest.raises(ConfigError, match="a frozen reference"):
        preference_loss(model, pairs())
    loss = preference_loss(model, pairs(), reference=tiny("llama"))
    loss.total.backward()
    assert model.embed.weight.grad is not None
    assert loss.margin.item() == pytest.approx(0, abs=1e-4)


# --- batches ---------------------------------------------------------------------------------------------------------


def test_padding_a_pair_changes_no_log_probability() -> None:
    chosen, rejected = rows(3, 12, seed=1), rows(3, 7, seed=2)
    log_probs = pair_log_probs(tiny("llama"), PreferenceBatch.of_pairs(chosen, rejected))
    torch.testing.assert_close(log_probs[:, 0], plain_log_probs(tiny("llama"), chosen))
    torch.testing.assert_close(log_probs[:, 1], plain_log_probs(tiny("llama"), rejected))


def test_rows_without_a_partner_are_refused() -> None:
    with pytest.raises(RequestError, match="chosen and a rejected"):
        PreferenceBatch.of_pairs(rows(2, 5, seed=1), rows(3, 5, seed=1))


@settings(max_examples=8, deadline=None)
@given(size=st.integers(1, 5))
def test_any_split_of_the_pairs_gives_the_same_gradient(size: int) -> None:
    model, its = model_with_lora(), pairs(5)
    whole = preference_loss(model, its)
    (whole.total / 5).backward()
    wanted = gradients(model)
    parts = its.split(size)
    assert [part.num_targets for part in parts] == [min(size, 5 - first) for first in range(0, 5, size)]
    loss = accumulate(model, parts, preference_loss).nll
    torch.testing.assert_close(loss, whole.nll / 5)
    torch.testing.assert_close(gradients(model), wanted, rtol=1e-4, atol=1e-6)


def test_a_split_keeps_each_pair_with_its_reference() -> None:
    its = pairs(5)
    with_reference = PreferenceBatch(its.token_ids, its.targets, its.positions, None, torch.arange(10.0).view(5, 2))
    parts = with_reference.to(torch.device("cpu")).split(2)
    assert [part.reference.tolist() for part in parts if part.reference is not None] == [
        [[0, 1], [2, 3]],
        [[4, 5], [6, 7]],
        [[8, 9]],
    ]


def test_training_raises_the_margin_on_the_pairs_it_sees() -> None:
    torch.manual_seed(0)
    model, its = model_with_lora(noise=0.0), pairs(6)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    before = preference_scores(model, its.split(4))
    for _ in range(20):
        accumulate(model, its.split(3), preference_loss)
        optimizer.step()
        optimizer.zero_grad()
    after = preference_scores(model, its.split(4))
    assert before.loss == pytest.approx(math.log(2))
    assert after.margin > before.margin + 0.5
    assert after.accuracy == 1.0
    assert after.loss < 0.5


def test_the_log_sigmoid_does_not_overflow() -> None:
    its = pairs(1)
    far = PreferenceBatch(its.token_ids, its.targets, its.positions, None, torch.tensor([[1e5, -1e5]]))
    loss = preference_loss(model_with_lora(), far)
    assert torch.isfinite(loss.total)
    assert loss.total.item() == pytest.approx(F.softplus(torch.tensor(0.1 * 2e5)).item(), rel=1e-2)
