"""What a run leaves for looking: true to the tensors, bounded, without a trace in the run itself, and gone with the
steps that are done again.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_train_cli import torchrun
from train_worker import STEPS, Noise, small_run

from pellucid.base.errors import UnsupportedError
from pellucid.checkpoint.files.safetensors import SafetensorsFile
from pellucid.explain.trace import trace
from pellucid.model.load import to_tensor
from pellucid.train.data.batch import IGNORED, Batch
from pellucid.train.runs import record as recording
from pellucid.train.runs.look import take_snapshot, token_losses, undisturbed
from pellucid.train.runs.peak import matrix_peak
from pellucid.train.runs.record import (
    ABOUT,
    BATCH,
    METRICS,
    SNAPSHOTS,
    WEIGHTS,
    RecordSettings,
    RunRecord,
    snapshot_steps,
    suggested_every,
)
from pellucid.train.runs.run import Run
from pellucid.train.runs.tensorboard import EventFiles


def recorded_run(folder: Path, every: int = 4, **changes: Any) -> Run:
    run = small_run(folder, optimizer=changes.pop("optimizer", "adamw"), **changes)
    run.record = RunRecord.of(folder, run.model, run.settings.num_steps, Noise(), settings=RecordSettings(every=every))
    return run


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    recorded_run(folder).run()
    return folder


def test_recording_leaves_the_run_as_it_was(whole: Path, tmp_path: Path) -> None:
    """Bit for bit: losses (with dropout, so the random numbers too) and weights."""
    small_run(tmp_path, optimizer="adamw").run()

    def figures(folder: Path) -> list[tuple]:
        return [(its["step"], its["loss"], its["grad_norm"], its.get("val_loss")) for its in lines(folder / METRICS)]

    assert figures(whole) == figures(tmp_path)
    weights = [folder / f"checkpoints/step-{STEPS:08d}/model.safetensors" for folder in (whole, tmp_path)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_norms_are_of_the_gradients_before_clipping_and_of_the_real_update(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, every=1, optimizer="muon", max_grad_norm=0.5)
    before = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    run.model.train()
    done = run.step()
    (its,) = lines(tmp_path / WEIGHTS)
    assert math.hypot(*its["grad"]) == pytest.approx(done.grad_norm, rel=1e-4)
    assert done.grad_norm > 0.5, "it was clipped"
    for (name, parameter), update, size in zip(run.model.named_parameters(), its["update"], its["weight"], strict=True):
        assert update == pytest.approx((parameter - before[name]).norm().item(), rel=1e-4, abs=1e-9), name
        assert size == pytest.approx(before[name].norm().item(), rel=1e-4), name


def test_the_batch_is_kept_with_the_loss_of_each_token_before_the_update(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, every=1)
    batch = run._batch()
    with undisturbed(run.model):
        logits = run.model(batch.token_ids, batch.context())
    run.step()
    its = json.loads((tmp_path / BATCH).read_text())
    assert its["ids"] == batch.token_ids.tolist()
    assert its["targets"] == batch.targets.tolist()
    expected = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none").view(4, 16)
    torch.testing.assert_close(torch.tensor(its["loss"]), expected, rtol=1e-4, atol=1e-5)
    assert its["pieces"][0] == [str(i) for i in its["ids"][0]]


def test_targets_that_the_mask_leaves_out_have_no_loss() -> None:
    run = small_run(Path("unused"))
    batch = Noise().shuffled(0, 2)
    targets = batch.targets.clone()
    targets[:, :5] = IGNORED
    losses = token_losses(run.model, Batch.of(batch.token_ids, targets))
    assert (losses[:, :5] == 0).all()
    assert (losses[:, 5:] > 0).all()


def test_a_snapshot_holds_what_a_trace_of_the_same_text_shows() -> None:
    run = small_run(Path("unused"))
    ids = Noise().shuffled(0, 1).token_ids[0, :9].tolist()
    its = {name: to_tensor(array).float() for name, array in take_snapshot(run.model, ids, [3, 1, 4]).items()}
    explained = trace(run.model, None, ids)
    logits = explained["logits"][0].log_softmax(-1)
    for layer in range(run.model.config.num_layers):
        torch.testing.assert_close(
            its[f"attention.{layer}"], explained[f"layers.{layer}.pattern"][0], atol=1e-3, rtol=0
        )
        assert its["stream"][layer + 1] == pytest.approx(
            explained[f"layers.{layer}.resid_post"].square().mean().sqrt().item(), rel=1e-5
        )
    torch.testing.assert_close(its["nll"], -logits[range(8), ids[1:]])
    assert its["next_ids"].int().tolist() == logits.topk(5).indices.tolist()
    torch.testing.assert_close(its["embedding"], run.model.embed.weight[[3, 1, 4]].detach(), atol=1e-3, rtol=1e-3)


def test_snapshots_lie_evenly_on_the_logarithm_of_the_step() -> None:
    for num_steps in (1, 5, 400, 10**6):
        steps = snapshot_steps(num_steps)
        assert steps[0] == 0
        assert steps[-1] == num_steps
        assert len(steps) <= 24
    assert np.ptp(np.diff(np.log(snapshot_steps(10**6)[8:]))) < 0.05
    assert suggested_every(100) == 10
    assert suggested_every(10**6) == 1000


def test_a_run_leaves_all_of_it_and_says_what_it_is(whole: Path) -> None:
    about = json.loads((whole / ABOUT).read_text())
    assert [its["step"] for its in lines(whole / WEIGHTS)] == [1, 4, 8, 12, 16, 20, 24]
    assert (
        sorted(int(path.stem[5:]) for path in (whole / SNAPSHOTS).iterdir())
        == snapshot_steps(STEPS)
        == about["snapshots"]
    )
    assert len(about["weights"]) == len(lines(whole / WEIGHTS)[0]["grad"])
    assert len(about["text"]["ids"]) == len(about["text"]["pieces"]) == 16


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    model = small_run(tmp_path).model
    record = RunRecord(tmp_path, model, 10, text=range(10_000), tokens=range(10_000))
    heads = sum(layer.mixer.num_heads for layer in model.config.layers)
    assert len(record.text) <= 48
    assert len(record.text) ** 2 * heads <= recording.MAX_CELLS
    assert len(record.tokens) * model.config.d_model <= recording.MAX_TABLE


def test_going_on_forgets_what_was_written_of_later_steps(whole: Path, tmp_path: Path) -> None:
    stopped = recorded_run(tmp_path)
    stopped.run(lambda step: stopped._ask_to_stop(15, None) if step.step == 14 else None)
    checkpoint = tmp_path / "checkpoints/step-00000014"
    for path in sorted(checkpoint.iterdir()):
        path.unlink()
    checkpoint.rmdir()  # as if a kill had come before it was written
    with open(tmp_path / WEIGHTS, "a") as file:
        file.write('{"step": 14, "grad": [0.1, 0')  # … in the middle of a line
    (tmp_path / "samples.jsonl").write_text('{"step": 8, "text": "a"}\n{"step": 14, "text": "b"}\n')
    again = recorded_run(tmp_path)
    assert again.resume()
    assert again.num_done == 12
    assert [its["step"] for its in lines(tmp_path / WEIGHTS)] == [1, 4, 8, 12]
    assert max(int(path.stem[5:]) for path in (tmp_path / SNAPSHOTS).iterdir()) <= 12
    assert [its["step"] for its in lines(tmp_path / "samples.jsonl")] == [8]
    again.run()
    for a, b in zip(lines(tmp_path / WEIGHTS), lines(whole / WEIGHTS), strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    for path in (whole / SNAPSHOTS).iterdir():
        mine, its = SafetensorsFile(tmp_path / SNAPSHOTS / path.name), SafetensorsFile(path)
        assert all(np.array_equal(mine[name].data, its[name].data) for name in its)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, save_every=0)
    with pytest.raises(ZeroDivisionError):
        run.run(lambda step: 1 // (5 - step.step))  # type: ignore[arg-type, return-value]
    assert len(lines(tmp_path / METRICS)) == 5
    again = recorded_run(tmp_path)
    assert not again.resume()
    assert lines(tmp_path / METRICS) == lines(tmp_path / WEIGHTS) == []
    assert [path.name for path in (tmp_path / SNAPSHOTS).iterdir()] == ["step-00000000.safetensors"]


def test_no_record_where_none_is_wanted(tmp_path: Path) -> None:
    recorded_run(tmp_path, every=0, num_steps=2).run()
    assert not (tmp_path / "record").exists()


@pytest.mark.slow
def test_two_processes_record_what_one_does(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("To be, or not to be: that is the question.\n" * 100)
    sizes = (
        "--tokenizer",
        "char",
        "--depth",
        1,
        "--d-model",
        16,
        "--num-heads",
        2,
        "--context-len",
        16,
        "--batch-size",
        4,
        "-t",
        1,
    )
    times = ("--steps", 6, "--sample-every", 0, "--record-every", 2)
    words = ["pellucid", "pretrain", "-d", tmp_path / "book.txt", *sizes, *times, "-q", "-o"]
    subprocess.run([sys.executable, "-m", *map(str, [*words, tmp_path / "one"])], check=True, timeout=300)
    assert torchrun("-m", *words, tmp_path / "two").wait(300) == 0
    for a, b in zip(lines(tmp_path / "one" / WEIGHTS), lines(tmp_path / "two" / WEIGHTS), strict=True):
        for name in ("grad", "update", "weight"):
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-7)
    for folder in ("one", "two"):
        assert len(list((tmp_path / folder / SNAPSHOTS).iterdir())) == len(snapshot_steps(6))


# --- TensorBoard, MFU
# ---------------------------------------------------------------------------------------------------


def test_event_files_say_what_the_metrics_say_and_take_back_steps_that_are_done_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = small_run(tmp_path, num_steps=8)
    events = EventFiles(tmp_path)
    run.run(events.write)
    events.write_text(8, "To be")
    events.close()
    again = small_run(tmp_path, num_steps=10, save_every=4)
    again.checkpoints.steps()[-1].rename(tmp_path / "lost")
    assert again.resume()
    assert again.num_done == 4
    events = EventFiles(tmp_path, again.num_done)
    again.run(events.write)
    events.close()
    read = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    written = lines(tmp_path / METRICS)
    for tag, name in (("loss/train", "loss"), ("lr", "lr"), ("grad_norm", "grad_norm")):
        assert [(its.step, its.value) for its in read.Scalars(tag)] == [
            (its["step"], pytest.approx(its[name], rel=1e-6)) for its in written
        ]
    assert [its.step for its in read.Scalars("loss/validation")] == [
        its["step"] for its in written if "val_loss" in its
    ]


def test_without_tensorboard_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'pellucid\[tensorboard\]'"):
        EventFiles(tmp_path)


def test_the_matrix_peak_is_near_what_one_product_reaches() -> None:
    import time

    a = torch.randn(512, 512)
    best = math.inf
    for _ in range(20):
        began = time.perf_counter()
        _ = a @ a
        best = min(best, time.perf_counter() - began)
    began = time.perf_counter()
    peak = matrix_peak(torch.device("cpu"))
    assert time.perf_counter() - began < 2.0, "about a quarter of a second on a free machine"
    assert 0.2 < peak / (2 * 512**3 / best) < 10


def test_the_bar_says_all_there_is_to_say() -> None:
    from pellucid.cli.terminal.progress import TrainingProgress
    from pellucid.train.runs.run import Step

    progress = TrainingProgress(100, 0, 1e9, peak=4e9, quiet=True)
    progress.show(Step(10, 2.5, 1e-3, 0.75, 1000, 0.5))
    assert progress.figures(Step(10, 2.5, 1e-3, 0.75, 1000, 0.5)).startswith(
        "loss 2.500, 2 K tokens/s, MFU 50 %, lr 1.00e-03, grad 0.75, "
    )
    assert progress.figures(Step(10, 2.5, 1e-3, 0.75, 1000, 0.5)).endswith(" left")
