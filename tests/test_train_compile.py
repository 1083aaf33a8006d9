"""``--compile``: the same losses, validation and samples left alone, and a run that was killed ends where it would
have, bit for bit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reference import telling
from test_train_preference import model_with_lora, pairs
from test_train_run import differing, numbers, state
from train_worker import Noise, small_run

from pellucid.base.errors import ConfigError
from pellucid.families import FAMILIES
from pellucid.model.decoder import Decoder
from pellucid.train.data.batch import Batch
from pellucid.train.dropout import Dropout
from pellucid.train.objectives.loss import language_loss
from pellucid.train.objectives.preference import preference_loss
from pellucid.train.runs.compile import compiled_forward
from pellucid.train.runs.loop import checkpoint_activations

WORKER = [sys.executable, str(Path(__file__).with_name("train_worker.py"))]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """No program of another test."""
    yield
    torch.compiler.reset()


def compiled_losses(
    family: str, *, num_layers: int | None = None, packed: bool = False, checkpointed: bool = False
) -> tuple[list[float], list[float]]:
    """Loss and norm of each gradient, eager and compiled."""
    config = FAMILIES[family].config(FAMILIES[family].TINY)
    config = replace(config, layers=config.layers[:num_layers])
    model = Decoder(config).initialize(torch.Generator().manual_seed(0)).train()
    batch = Noise().shuffled(0, 2)
    if packed:
        segments = torch.tensor([0] * 5 + [1] * 11).expand(2, 16)
        batch = Batch(batch.token_ids, batch.targets, batch.positions, segments)
    results = []
    for compiled in (False, True):
        if compiled and checkpointed:
            checkpoint_activations(model)
        loss = language_loss(model, batch, forward=compiled_forward(model) if compiled else None)
        loss.total.backward()
        results.append(
            [
                loss.nll.item(),
                *(parameter.grad.norm().item() for parameter in model.parameters() if parameter.grad is not None),
            ]
        )
        model.zero_grad()
    return results[0], results[1]


def test_a_compiled_model_has_the_loss_and_gradients_of_an_eager_one() -> None:
    eager, compiled = compiled_losses("llama", num_layers=1)
    assert compiled == pytest.approx(eager, rel=1e-4)


def test_a_preference_s_loss_and_gradients_are_those_of_an_eager_model_with_lora() -> None:
    model, its = model_with_lora(), pairs()
    forward, calls = compiled_forward(model), []
    results = []
    for compiled in (None, lambda *ins: calls.append(ins) or forward(*ins)):
        loss = preference_loss(model, its, forward=compiled)
        loss.total.backward()
        results.append(
            [loss.total.item(), *(its.grad.norm().item() for its in model.parameters() if its.grad is not None)]
        )
        model.zero_grad()
    assert results[1] == pytest.approx(results[0], rel=1e-4)
    assert len(calls) == 1, "the reference has no use for it"


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("family", telling(list(FAMILIES)))
def test_every_family_compiles_as_one_graph(family: str, checkpointed: bool) -> None:
    eager, compiled = compiled_losses(family, packed=True, checkpointed=checkpointed)
    assert compiled == pytest.approx(eager, rel=1e-4)


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(ConfigError, match="install g"):
        compiled_forward(Decoder(FAMILIES["llama"].config(FAMILIES["llama"].TINY)))


@pytest.mark.slow
def test_dropout_is_drawn_anew_in_each_step(tmp_path: Path) -> None:
    model = small_run(tmp_path).model
    forward, batch = compiled_forward(model), Noise().shuffled(0, 2)
    first, second = (language_loss(model, batch, recorder=Dropout(0.5), forward=forward).nll.item() for _ in range(2))
    assert first != second


@pytest.mark.slow
def test_a_compiled_run_that_was_killed_ends_bit_for_bit_where_it_would_have(tmp_path: Path) -> None:
    its = {"env": {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "programs")}, "timeout": 600}
    subprocess.run([*WORKER, tmp_path / "whole", "--compile"], check=True, stdout=subprocess.DEVNULL, **its)
    killed = subprocess.run(
        [*WORKER, tmp_path / "killed", "--compile", "--die-in-save", "16"], stdout=subprocess.DEVNULL, **its
    )
    assert killed.returncode == -signal.SIGKILL
    last = subprocess.run(
        [*WORKER, tmp_path / "killed", "--compile"], check=True, stdout=subprocess.PIPE, text=True, **its
    )
    assert last.stdout.split()[0] == "13"
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
    assert not differing(state(tmp_path / "killed"), state(tmp_path / "whole"))
