"""What a checkpoint keeps beside the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_checkpoint_distributed import write_parts
from train_worker import small_run

from pellucid.base.array import Array
from pellucid.base.errors import CheckpointError
from pellucid.checkpoint.files.safetensors import SafetensorsFile
from pellucid.checkpoint.files.safetensors_write import save_safetensors
from pellucid.train.runs.checkpoint import STATE, TENSORS, Checkpoints, restore_training, verify
from pellucid.train.runs.run import Run


def steps_of(run: Run) -> list[torch.Tensor]:
    return [state["step"] for optimizer in run.optimizers for state in optimizer.state.values() if "step" in state]


def test_step_counts_stay_scalars_also_from_checkpoints_that_made_rows_of_them(tmp_path: Path) -> None:
    small_run(tmp_path, num_steps=4, eval_every=0).run()
    again = small_run(tmp_path)
    assert again.resume()
    assert {(tuple(step.shape), step.item()) for step in steps_of(again)} == {((), 4.0)}
    folder = tmp_path / "checkpoints/step-00000004"
    arrays = dict(SafetensorsFile(folder / TENSORS))
    old = {
        name: Array(its.dtype, (1,), its.data.reshape(1)) if name.endswith(".step") else its
        for name, its in arrays.items()
    }
    save_safetensors(folder / TENSORS, old)
    restore_training(folder, again.model, again.optimizers)
    assert {(tuple(step.shape), step.item()) for step in steps_of(again)} == {((), 4.0)}


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"files": []}'])
def test_a_checkpoint_whose_state_is_damaged_is_passed_over(content: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        with checkpoints.writing(step, {}) as folder:
            (folder / "weights").write_text("…")
    (tmp_path / "step-00000002" / STATE).write_text(content)
    said: list[str] = []
    assert checkpoints.latest(said.append) == tmp_path / "step-00000001"
    assert "step-00000002" in said[0]


def write_two_parts(checkpoints: Checkpoints, *, here: int) -> None:
    """As two processes would, of whose parts so many are in the folder."""
    with checkpoints.writing(1, {}) as folder:
        write_parts(folder, {"model.w": np.zeros((4, 2), np.float32)}, 2)
        for part in sorted(folder.glob("process-*"))[here:]:
            part.unlink()


def test_a_part_that_another_machine_wrote_to_its_own_disk_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match="a folder that all processes see"):
        write_two_parts(checkpoints, here=1)
    assert checkpoints.latest() is None
    write_two_parts(checkpoints, here=2)
    assert verify(tmp_path / "step-00000001") is None
