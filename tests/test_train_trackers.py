"""W&B and MLflow are told what a run's own metrics say: read back with their own libraries."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_train_going_on import book, metrics, pretrain

from pellucid.base.errors import UnsupportedError

__all__ = ["book"]  # a fixture
WORDS = ["--lr", 0.01, "--warmup-steps", 1, "--eval-every", 2, "--sample-every", 3]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own settings, and no network."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR", "MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)


def history_of(run: Path, name: str) -> list[tuple[int, float]]:
    return [(line["step"], line[name]) for line in metrics(run) if name in line]


@pytest.mark.habit("training", "MLflow: --mlflow [EXPERIMENT]", "works")
@pytest.mark.slow
def test_mlflow_reads_the_runs_own_figures_and_goes_on_with_it(book: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="pip install mlflow")
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

    said = pretrain(book, tmp_path, *WORDS, "--steps", 3, "--mlflow", "小说").stderr
    pretrain(book, tmp_path, "--steps", 5, *WORDS, "--mlflow", "小说")
    assert "mlruns" in said
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("小说")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    told = {
        name: [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]
        for name in ("loss.train", "loss.validation", "lr")
    }
    assert told["loss.train"] == history_of(tmp_path, "loss")
    assert told["loss.validation"] == history_of(tmp_path, "val_loss")
    assert told["lr"] == history_of(tmp_path, "lr")
    assert run.data.params["depth"] == "1"
    assert run.info.status == "FINISHED"
    assert (tmp_path / "mlruns").is_dir()
    texts = list((tmp_path / "mlruns").rglob("step-00000003.txt"))
    assert len(texts) == 1
    assert texts[0].read_text()


@pytest.mark.habit("training", "Weights & Biases: --wandb [PROJECT]", "works")
def test_wandb_is_told_the_runs_own_figures(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in that keeps what it is told, so that it is proven without the library, too."""
    told: list[tuple[int, dict[str, Any]]] = []
    begun: list[dict[str, Any]] = []

    class Begun:
        dir, url = str(tmp_path / "wandb/offline-run-1/files"), None

        def log(self, values: dict[str, Any], step: int) -> None:
            told.append((step, values))

        def finish(self) -> None:
            told.append((-1, {}))

    def init(**settings: Any) -> Begun:
        begun.append(settings)
        return Begun()

    fake = SimpleNamespace(init=init, Settings=lambda **_: None, Html=lambda text: text)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    said = pretrain(book, tmp_path, *WORDS, "--steps", 3, "--wandb").stderr
    assert "W&B, offline" in said
    assert [(step, values["loss/train"]) for step, values in told if "loss/train" in values] == history_of(
        tmp_path, "loss"
    )
    assert told[-1] == (-1, {}), "it is told the end"
    assert any("sample" in values for _, values in told)
    pretrain(book, tmp_path, *WORDS, "--steps", 4, "--wandb", "books")
    assert [one["project"] for one in begun] == ["pellucid", "books"]
    assert begun[0]["id"] == begun[1]["id"], "a run that goes on is the same one there"
    assert begun[0]["mode"] == "offline"
    assert begun[0]["config"]["depth"] == 1


def records_of(file: Path) -> Iterator[bytes]:
    """W&B's own file: seven bytes, then blocks of 32 kB with records in one part or more, as LevelDB's log has them."""
    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if left < 7 or not kind:
            at += left
            continue
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


@pytest.mark.slow
def test_the_real_wandb_keeps_them_on_this_machine(book: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="pip install wandb")
    from wandb.proto import wandb_internal_pb2  # pyright: ignore[reportMissingImports]

    said = pretrain(book, tmp_path, *WORDS, "--steps", 3, "--wandb").stderr
    assert "wandb sync" in said
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    told: list[tuple[int, float]] = []
    for data in records_of(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            if "loss/train" in items:
                told.append((int(items["_step"]), float(items["loss/train"])))
    assert told == history_of(tmp_path, "loss")


@pytest.mark.parametrize(("flag", "module"), [("--wandb", "wandb"), ("--mlflow", "mlflow.tracking")])
@pytest.mark.habit("training", "--wandb, --mlflow without the library", "pointer", "pip install wandb, mlflow")
def test_without_the_library_its_name_is_said(
    flag: str, module: str, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnsupportedError, match=f"{flag}: .*not installed(.|\n)*pip install {module.split('.')[0]}"):
        pretrain(book, tmp_path, *WORDS, "--steps", 1, flag)
