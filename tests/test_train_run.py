"""A run: it stops anywhere, goes on bit for bit, and says what went wrong where."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from train_worker import STEPS, Noise, small_run

from pellucid import AutoModelForCausalLM
from pellucid.base.errors import CheckpointError
from pellucid.checkpoint.files.safetensors import SafetensorsFile
from pellucid.train.data.batch import Batch
from pellucid.train.runs.checkpoint import STATE, TENSORS
from pellucid.train.runs.diagnose import TrainingError

WORKER = [sys.executable, str(Path(__file__).with_name("train_worker.py"))]


def numbers(folder: Path) -> list[tuple[float, ...]]:
    """Step, loss, learning rate, grad norm and validation loss of every step."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [tuple(line.get(name, -1) for name in ("step", "loss", "lr", "grad_norm", "val_loss")) for line in lines]


def state(folder: Path, step: int = STEPS) -> dict[str, bytes]:
    """Every weight, every tensor of the optimizers, and the random generator, bit for bit."""
    checkpoint = folder / "checkpoints" / f"step-{step:08d}"
    return {
        name: array.data.tobytes()
        for file in ("model.safetensors", TENSORS)
        for name, array in SafetensorsFile(checkpoint / file).items()
    }


def differing(a: dict[str, bytes], b: dict[str, bytes]) -> list[str]:
    return [name for name in a.keys() | b.keys() if a.get(name) != b.get(name)]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    subprocess.run([*WORKER, folder], check=True, timeout=300, stdout=subprocess.DEVNULL)
    return folder


def test_killed_in_mid_run_and_in_mid_save_it_ends_bit_for_bit_where_it_would_have(
    whole_run: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen([*WORKER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "6":  # between the checkpoints of steps 4 and 8
            process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    in_save = subprocess.run([*WORKER, tmp_path, "--die-in-save", "16"], timeout=300, stdout=subprocess.PIPE, text=True)
    assert in_save.returncode == -signal.SIGKILL
    assert in_save.stdout.split()[0] == "5", "goes on after the checkpoint of step 4"
    assert list((tmp_path / "checkpoints").glob(".step-00000016.partial")), "the kill came while step 16 was written"
    last = subprocess.run([*WORKER, tmp_path], check=True, timeout=300, stdout=subprocess.PIPE, text=True)
    assert last.stdout.split()[0] == "13", "goes on after the checkpoint of step 12"
    assert numbers(tmp_path) == numbers(whole_run)
    assert not differing(state(tmp_path), state(whole_run))
    assert not list((tmp_path / "checkpoints").glob(".*")), "what the kill left is gone"


def test_sigterm_saves_and_stops(whole_run: Path, tmp_path: Path) -> None:
    process = subprocess.Popen([*WORKER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "6":
            process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    stopped_at = int(numbers(tmp_path)[-1][0])
    assert 6 <= stopped_at < STEPS
    assert (tmp_path / "checkpoints" / f"step-{stopped_at:08d}").is_dir()
    subprocess.run([*WORKER, tmp_path], check=True, timeout=300, stdout=subprocess.DEVNULL)
    assert numbers(tmp_path) == numbers(whole_run)
    assert not differing(state(tmp_path), state(whole_run))


def test_a_checkpoint_is_a_model_like_any_other(whole_run: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(whole_run / "checkpoints" / f"step-{STEPS:08d}", device="cpu")
    ids = Noise().shuffled(0, 1).token_ids
    assert model(ids).logits.shape == (1, 16, 96)


def test_old_checkpoints_are_pruned(whole_run: Path) -> None:
    assert [path.name for path in sorted((whole_run / "checkpoints").iterdir())] == ["step-00000020", "step-00000024"]


def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path: Path) -> None:
    run = small_run(tmp_path, num_steps=8)
    run.run()
    damaged = tmp_path / "checkpoints/step-00000008" / TENSORS
    data = bytearray(damaged.read_bytes())
    data[-100] ^= 1
    damaged.write_bytes(data)
    said: list[str] = []
    again = small_run(tmp_path)
    assert again.resume(said.append)
    assert again.num_done == 4
    assert "training.safetensors" in said[0]
    (tmp_path / "checkpoints/step-00000004" / STATE).unlink()
    with pytest.raises(CheckpointError):
        small_run(tmp_path).resume()


def test_it_learns(tmp_path: Path) -> None:
    class Same(Noise):
        def shuffled(self, first: int, count: int) -> Batch:
            return super().shuffled(0, count)

    run = small_run(tmp_path, save_every=0, eval_every=0)
    run.samples = Same()
    losses: list[float] = []
    run.run(lambda step: losses.append(step.loss))
    assert losses[-1] < 0.8 * losses[0]


def test_a_loss_that_is_no_number_names_step_layer_and_batch(tmp_path: Path) -> None:
    run = small_run(tmp_path, save_every=0, eval_every=0)
    run.step()
    layer = run.model.get_parameter("layers.1.mlp.up_proj.weight")
    with torch.no_grad():
        layer[0, 0] = float("inf")
    with pytest.raises(TrainingError, match=r"step 2, samples 4 to 7.*layers\.1\.mlp\.up_proj\.weight") as error:
        run.step()
    assert "bad-batch-step-2.safetensors" in str(error.value)
    assert (tmp_path / "bad-batch-step-2.safetensors").is_file()


def test_values_that_overflow_are_found_where_they_first_do(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    with torch.no_grad():
        run.model.get_parameter("layers.1.attention_norm.weight").fill_(3e38)
    with pytest.raises(TrainingError, match=r"first not finite: layers\.1\.(attn_in|q)"):
        run.step()


def test_a_spike_can_be_skipped_and_leaves_the_weights_alone(tmp_path: Path) -> None:
    run = small_run(tmp_path, spike=2.0, on_trouble="skip")
    run.num_done, run.mean_loss = 60, 0.1  # as if it had learned
    before = {name: parameter.clone() for name, parameter in run.model.named_parameters()}
    done = run.step()
    assert done.skipped is not None
    assert "leapt" in done.skipped
    assert all(torch.equal(before[name], parameter) for name, parameter in run.model.named_parameters())
    assert run.num_done == 61
    run.settings = replace(run.settings, on_trouble="stop")
    with pytest.raises(TrainingError, match="leapt"):
        run.step()


def test_steps_that_all_have_to_be_skipped_stop_the_run(tmp_path: Path) -> None:
    run = small_run(tmp_path, spike=2.0, on_trouble="skip")
    run.num_done, run.mean_loss = 60, 0.1  # as if it had learned, and was thrown far off
    for _ in range(9):
        assert run.step().skipped
    with pytest.raises(TrainingError, match="10 steps in a row"):
        run.step()
