"""Several processes: a run goes on with another number of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_cli_finetune import FACTS, QUICK, figures, pellucid, save_model, write
from test_train_cli import SMALL, TEXT, losses

from pellucid.base.errors import ConfigError
from pellucid.checkpoint.files.distributed import is_distributed
from pellucid.cli.app import app

STEPS, STOP = 12, 4
SIZES = [
    *SMALL,
    "--batch-size",
    "6",
    "--steps",
    str(STEPS),
    "--save-every",
    str(STOP),
    "--keep",
    "0",
    "--sample-every",
    "0",
    "--lr",
    "1e-2",
]


def launch(count: int, *words: object) -> None:
    if count == 1:
        pellucid(*words)
        return
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(count),
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
    ]
    done = subprocess.run(
        [*command, "localhost:0", "-m", "pellucid", *map(str, words)], timeout=600, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def stopped(run: Path, at: Path, step: int) -> Path:
    """A copy of a run as it was after a step, its later checkpoints and its model gone."""
    (at / "checkpoints").mkdir(parents=True)
    for path in run.iterdir():
        if path.is_dir() and path.name != "checkpoints":
            shutil.copytree(path, at / path.name)
        elif path.name in ("run.yaml", "metrics.jsonl"):
            shutil.copy(path, at)
    name = f"step-{step:08d}"
    shutil.copytree(run / "checkpoints" / name, at / "checkpoints" / name)
    return at


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "book.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def run_of(text: Path) -> Callable[[int], Path]:
    """The run that so many processes make, undisturbed."""

    @cache
    def made(count: int) -> Path:
        launch(count, "pretrain", "-d", text, *SIZES, "-o", text.parent / str(count), "-q")
        return text.parent / str(count)

    return made


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2), (2, 3), (3, 2)])
def test_a_run_goes_on_with_another_number_of_processes(
    first: int, then: int, text: Path, run_of: Callable[[int], Path], tmp_path: Path
) -> None:
    out = stopped(run_of(first), tmp_path / "run", STOP)
    assert is_distributed(out / f"checkpoints/step-{STOP:08d}") == (first > 1)
    launch(then, "pretrain", "-d", text, *SIZES, "-o", out, "-q")
    assert len(losses(out)) == STEPS
    for a, b, c in zip(losses(run_of(1)), losses(run_of(first)), losses(out), strict=True):
        assert a == pytest.approx(b, rel=1e-3)  # sums over rows go in another order
        assert a == pytest.approx(c, rel=1e-3)
    assert (out / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora", "dpo"])
def test_fine_tuning_goes_on_with_the_same_number_bit_for_bit_and_with_another(
    method: str, shared: Path, tmp_path: Path
) -> None:
    sizes = {
        "vocab_size": 6400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "eos_token_id": 2,
        "bos_token_id": 1,
    }
    base = save_model(tmp_path / "base", "qwen2", shared / "minimind_tokenizer", **sizes)
    data = write(tmp_path / "facts.jsonl", FACTS)
    if method == "dpo":
        data = tmp_path / "pairs.jsonl"
        data.write_text('{"prompt": "Is it?", "chosen": "Yes.", "rejected": "No, not at all."}\n' * 4)
    words = [
        "finetune",
        "-m",
        base,
        "-d",
        data,
        "--method",
        method,
        *QUICK,
        "--lr",
        "1e-3",
        "--batch-size",
        "4",
        "--steps",
        "4",
        "--sample-every",
        "0",
    ]
    words += ["--save-every", "2", "--keep", "0", "--no-merge", "-q"]
    launch(2, *words, "-o", tmp_path / "two")
    model = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    for then in (2, 1):
        out = stopped(tmp_path / "two", tmp_path / f"then-{then}", 2)
        launch(then, *words, "-o", out)
        ours, theirs = ([line["loss"] for line in figures(run)] for run in (out, tmp_path / "two"))
        assert ours == (theirs if then == 2 else pytest.approx(theirs, rel=1e-3))
        same = (out / model).read_bytes() == (tmp_path / "two" / model).read_bytes()
        assert same or then == 1


def test_rows_that_processes_cannot_share_evenly_are_refused(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pellucid.train.runs.parallel import Processes

    monkeypatch.setattr(Processes, "__enter__", lambda self: setattr(self, "count", 4) or self)
    monkeypatch.setattr(Processes, "__exit__", lambda *_: None)
    result = CliRunner().invoke(app, ["pretrain", *SIZES, "-d", str(text), "-o", str(tmp_path / "run")])
    assert isinstance(result.exception, ConfigError)
    assert "a multiple of 4 processes" in str(result.exception)
