"""Checkpoints of several processes: whole or absent, the same bits again, and a model like any other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from train_worker import STEPS, Noise, small_run

from pellucid import AutoModelForCausalLM
from pellucid.base.errors import CheckpointError
from pellucid.checkpoint.files.distributed import INDEX, DistributedTensors, model_weights
from pellucid.train.runs.checkpoint import STATE, verify

WORKER = Path(__file__).with_name("train_worker.py")
LAUNCH = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "localhost:0",
]


def numbers(run: Path) -> list[tuple[float, ...]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [tuple(line.get(name, -1) for name in ("step", "loss", "grad_norm", "val_loss")) for line in lines]


def two(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LAUNCH, WORKER, *map(str, words)], timeout=300, text=True, capture_output=True)


def last(run: Path, step: int = STEPS) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes."""
    folder = tmp_path_factory.mktemp("two")
    done = two(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def run(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    shutil.copytree(undisturbed, tmp_path / "run")
    return tmp_path / "run"


def test_a_process_killed_while_it_writes_leaves_the_checkpoint_before_and_they_go_on_bit_for_bit(
    undisturbed: Path, tmp_path: Path
) -> None:
    killed = two(tmp_path, "--die-in-save", "16")
    assert killed.returncode != 0
    assert "SIGKILL" in killed.stderr, "the death of a worker is reported"
    partial = tmp_path / "checkpoints/.step-00000016.partial"
    assert (partial / "process-00002-of-00002.safetensors").is_file(), "the kill came while step 16 was written"
    assert not (partial / STATE).exists()
    assert [path.name for path in sorted((tmp_path / "checkpoints").glob("step-*"))] == [
        "step-00000008",
        "step-00000012",
    ]
    damage(
        last(tmp_path, 12) / "process-00002-of-00002.safetensors"
    )  # this the second process verifies, and the first must hear of
    again = two(tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split("\n")[0].startswith("passing over a damaged checkpoint")
    assert numbers(tmp_path) == numbers(undisturbed)
    assert not partial.exists()
    ours, theirs = DistributedTensors(last(tmp_path)), DistributedTensors(last(undisturbed))
    assert ours.keys() == theirs.keys()
    assert {"random.0.cpu", "random.1.cpu"} < ours.keys()
    assert not [name for name in ours if ours[name].data.tobytes() != theirs[name].data.tobytes()]


def test_each_process_writes_its_part_and_the_parts_are_a_model(undisturbed: Path) -> None:
    folder = last(undisturbed)
    sizes = [file.bytes for file in DistributedTensors(folder).files]
    assert len(sizes) == 2
    assert min(sizes) > 0.8 * max(sizes)
    assert sorted(path.name for path in folder.glob("*.safetensors")) == [
        "process-00001-of-00002.safetensors",
        "process-00002-of-00002.safetensors",
    ]
    in_training = small_run(undisturbed, "adamw")
    assert in_training.resume()
    model = AutoModelForCausalLM.from_pretrained(folder, device="cpu")
    ids = Noise().shuffled(0, 1).token_ids
    in_training.model.eval()
    with torch.no_grad():
        assert torch.equal(
            model(ids).logits, AutoModelForCausalLM.from_pretrained(published(in_training), device="cpu")(ids).logits
        )
    for name, parameter in in_training.model.named_parameters():
        assert model_weights(DistributedTensors(folder))[name].data.tobytes() == parameter.detach().numpy().tobytes()


def published(run) -> Path:
    run.publish()
    assert (run.folder / "model.safetensors").is_file()
    return run.folder


def damage(path: Path, at: int = -100) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_one_altered_bit_is_passed_over_and_said(run: Path) -> None:
    damage(last(run) / "process-00001-of-00002.safetensors")
    said: list[str] = []
    again = small_run(run, "adamw")
    assert again.resume(said.append)
    assert again.num_done == STEPS - 4
    assert "process-00001-of-00002.safetensors" in said[0]


@pytest.mark.parametrize("name", ["process-00001-of-00002.safetensors", "process-00002-of-00002.safetensors", INDEX])
def test_a_truncated_file_is_refused_by_name(run: Path, name: str) -> None:
    shutil.rmtree(last(run, STEPS - 4))
    os.truncate(last(run) / name, (last(run) / name).stat().st_size - 8)
    with pytest.raises(CheckpointError, match=name):
        small_run(run, "adamw").resume()
    with pytest.raises(CheckpointError, match=name):
        AutoModelForCausalLM.from_pretrained(last(run), device="cpu")
    (last(run) / name).unlink()
    assert name in str(verify(last(run)))


def test_another_model_does_not_go_on_with_it(run: Path) -> None:
    folder = last(run)
    index = json.loads((folder / INDEX).read_text())
    index["tensors"]["model.other.weight"] = index["tensors"].pop("model.embed.weight")
    (folder / INDEX).write_text(json.dumps(index))
    from pellucid.train.runs.checkpoint import restore_distributed

    its = small_run(run, "adamw")
    with pytest.raises(CheckpointError, match=r"model\.embed\.weight"):
        restore_distributed(folder, its.model, its.optimizers)
