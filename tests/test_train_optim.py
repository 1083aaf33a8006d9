"""Optimizers and schedules."""

from __future__ import annotations

import pytest
import torch

from pellucid.base.errors import ConfigError
from pellucid.families import FAMILIES
from pellucid.model.decoder import Decoder
from pellucid.train.runs.optim import OptimSettings, make_optimizers
from pellucid.train.runs.schedule import Schedule


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_only_matrices_decay_and_every_parameter_is_optimized_once(optimizer: str) -> None:
    model = Decoder(FAMILIES["gpt2"].config(FAMILIES["gpt2"].TINY)).initialize()
    made = make_optimizers(model, OptimSettings(optimizer=optimizer, weight_decay=0.1))  # type: ignore[arg-type]
    groups = [group for one in made for group in one.param_groups]
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    assert decayed == {id(parameter) for parameter in model.parameters() if parameter.ndim == 2}
    every = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(every) == sorted(map(id, model.parameters()))


def test_muon_takes_the_matrices_of_layers_alone() -> None:
    model = Decoder(FAMILIES["llama"].config(FAMILIES["llama"].TINY)).initialize()
    adamw, muon = make_optimizers(model, OptimSettings(optimizer="muon"))
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert isinstance(muon, torch.optim.Muon)
    assert all(".attention." in names[p] or ".mlp." in names[p] for group in muon.param_groups for p in group["params"])
    assert "embed.weight" in {names[p] for group in adamw.param_groups for p in group["params"]}


def test_cosine_warms_up_peaks_and_ends_at_the_final_fraction() -> None:
    schedule = Schedule(kind="cosine", num_steps=100, warmup_steps=10, final_fraction=0.1)
    factors = [schedule.factor(step) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[-1] == pytest.approx(0.1)
    assert factors[55] == pytest.approx(0.55, abs=0.01)
    assert sorted(factors[10:], reverse=True) == factors[10:]


def test_wsd_stays_until_the_last_fifth_and_falls_linearly() -> None:
    schedule = Schedule(kind="wsd", num_steps=100, warmup_steps=10, decay_fraction=0.2, final_fraction=0.0)
    assert {schedule.factor(step) for step in range(10, 81)} == {1.0}
    assert schedule.factor(99) == 0.0
    assert schedule.factor(90) == pytest.approx(9 / 19)


def test_constant_stays_and_a_warm_up_beyond_the_run_is_an_error() -> None:
    assert Schedule(kind="constant", num_steps=10, warmup_steps=0).factor(9) == 1.0
    with pytest.raises(ConfigError, match="warm-up"):
        Schedule(num_steps=10, warmup_steps=11)
