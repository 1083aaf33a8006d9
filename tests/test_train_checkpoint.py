"""What a checkpoint keeps beside the weights."""

from __future__ import annotations

from pathlib import Path

import torch
from train_worker import small_run

from pellucid.base.array import Array
from pellucid.checkpoint.safetensors import SafetensorsFile
from pellucid.checkpoint.safetensors_write import save_safetensors
from pellucid.train.checkpoint import TENSORS, restore_training
from pellucid.train.run import Run


def steps_of(run: Run) -> list[torch.Tensor]:
    return [state["step"] for optimizer in run.optimizers for state in optimizer.state.values() if "step" in state]


def test_step_counts_stay_scalars_also_from_checkpoints_that_made_rows_of_them(tmp_path: Path) -> None:
    small_run(tmp_path, num_steps=4, eval_every=0).run()
    again = small_run(tmp_path)
    assert again.resume()
    assert {(tuple(step.shape), step.item()) for step in steps_of(again)} == {((), 4.0)}
    folder = tmp_path / "checkpoints/step-00000004"
    arrays = dict(SafetensorsFile(folder / TENSORS))
    old = {name: Array(its.dtype, (1,), its.data.reshape(1)) if name.endswith(".step") else its for name, its in arrays.items()}
    save_safetensors(folder / TENSORS, old)
    restore_training(folder, again.model, again.optimizers)
    assert {(tuple(step.shape), step.item()) for step in steps_of(again)} == {((), 4.0)}
