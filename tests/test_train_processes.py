"""Several processes: a run goes on with another number of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_train_cli import SMALL, TEXT, losses

from pellucid.base.errors import ConfigError
from pellucid.cli.app import app

STEPS = 24
WORDS = ["-m", "pellucid", "pretrain", *SMALL, "--batch-size", "6", "--steps", str(STEPS), "--save-every", "4", "--sample-every", "0", "--lr", "1e-2"]


def command(count: int, text: Path, out: Path) -> list[str]:
    words = [*WORDS, "-d", str(text), "-o", str(out)]
    if count == 1:
        return [sys.executable, *words]
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--rdzv-backend", "c10d"]
    return [*run, "--rdzv-endpoint", "localhost:0", *words]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "book.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def alone(text: Path) -> Path:
    """The run that one process makes, undisturbed."""
    subprocess.run(command(1, text, text.parent / "alone"), check=True, timeout=600)
    return text.parent / "alone"


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2), (2, 3)])
def test_a_run_goes_on_with_another_number_of_processes(first: int, then: int, text: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    begun = subprocess.Popen(command(first, text, out), start_new_session=True)
    while not (out / "checkpoints/step-00000004").is_dir():
        assert begun.poll() is None
        time.sleep(0.02)
    os.killpg(begun.pid, signal.SIGKILL)  # all of it at once, as a machine that fails
    begun.wait(60)
    assert 4 <= len(losses(out)) < STEPS
    subprocess.run(command(then, text, out), check=True, timeout=600)
    assert len(losses(out)) == STEPS
    for a, b in zip(losses(alone), losses(out), strict=True):
        assert a == pytest.approx(b, rel=2e-3)  # sums over rows go in another order


def test_rows_that_processes_cannot_share_evenly_are_refused(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pellucid.train.parallel import Processes

    monkeypatch.setattr(Processes, "__enter__", lambda self: setattr(self, "count", 4) or self)
    monkeypatch.setattr(Processes, "__exit__", lambda *_: None)
    result = CliRunner().invoke(app, [*WORDS[2:], "-d", str(text), "-o", str(tmp_path / "run")])
    assert isinstance(result.exception, ConfigError)
    assert "a multiple of 4 processes" in str(result.exception)
