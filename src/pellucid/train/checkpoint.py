"""Checkpoints of a run: all that is needed to go on exactly as if nothing had happened, whole or absent.

    RUN/checkpoints/step-00000500/
        config.json, model.safetensors, tokenizer…   a model like any other: load it, run it, explain it
        training.safetensors                         optimizer state by weight name, random generators
        training.json                                step, data position, and every file's sha256; written last

A checkpoint is written under a hidden name and renamed when all of it is on the disk. What a kill leaves is removed at the next start.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pellucid.base.array import Array
from pellucid.base.errors import CheckpointError
from pellucid.base.files import file_sha256, read_json, write_json
from pellucid.checkpoint.open import open_checkpoint
from pellucid.checkpoint.safetensors import SafetensorsFile
from pellucid.checkpoint.safetensors_write import save_safetensors
from pellucid.checkpoint.save import save_checkpoint
from pellucid.config import ModelConfig
from pellucid.model.load import to_array, to_tensor

if TYPE_CHECKING:
    from pellucid.text.tokenizer import Tokenizer

STATE, TENSORS = "training.json", "training.safetensors"
WriteModel = Callable[[Path, Mapping[str, Array]], None]  # (folder, every trained parameter by name)
ReadModel = Callable[[Path, nn.Module], None]  # (folder, the model whose parameters are set in place)


def write_model(
    folder: Path,
    weights: Mapping[str, Array],
    *,
    config: ModelConfig,
    tokenizer: Tokenizer | None = None,
    generation_config: Mapping[str, Any] | None = None,
) -> None:
    """A folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load."""
    save_checkpoint(folder, config, weights, generation_config=generation_config)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name. What is frozen lies with the base model, and in no checkpoint of a run."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def read_model(path: Path, model: nn.Module) -> None:
    """Give a model the weights of a folder, in place: its optimizers keep hold of them."""
    weights = open_checkpoint(path).weights
    for name, parameter in trained_parameters(model).items():
        parameter.copy_(placed_like(to_tensor(weights[name]), parameter))


def whole(tensor: Tensor) -> Tensor:
    """The tensor's values on this process, gathered where it is spread over several."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]


class Checkpoints:
    """The checkpoints of one run. The latest ``keep`` stay (0: all)."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def save(self, step: int, write: Callable[[Path], None], tensors: Mapping[str, Array], state: Mapping[str, Any]) -> Path:
        """Write a checkpoint, whole (``write`` puts the model into a folder); then remove those no longer kept.

        Raises: CheckpointError for a full disk.
        """
        final = self.folder / f"step-{step:08d}"
        partial = self.folder / f".{final.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        write(partial)
        save_safetensors(partial / TENSORS, tensors)
        files = {file.relative_to(partial).as_posix(): file_sha256(file) for file in sorted(partial.rglob("*")) if file.is_file()}
        write_json(partial / STATE, {**state, "step": step, "files": files})
        for directory in (partial, self.folder):
            _sync(directory)
        if final.exists():  # an earlier run's, of the same step
            shutil.rmtree(final)
        os.rename(partial, final)
        _sync(self.folder)
        for old in self.steps()[: -self.keep] if self.keep else ():
            shutil.rmtree(old)
        return final

    def steps(self) -> list[Path]:
        """Checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if path.is_dir())

    def clean(self) -> None:
        """Remove what an interrupted save left."""
        for partial in self.folder.glob(".step-*.partial"):
            shutil.rmtree(partial)

    def latest(self, warn: Callable[[str], None] = lambda _: None) -> Path | None:
        """The latest checkpoint all of whose files are as they were written; None where there is no checkpoint.

        Raises: CheckpointError where there are some and none is sound.
        """
        problem = None
        for path in reversed(self.steps()):
            try:
                verify(path)
            except CheckpointError as error:
                problem = error
                warn(f"passing over a damaged checkpoint: {error}")
            else:
                return path
        if problem is not None:
            raise problem
        return None


def verify(path: Path) -> None:
    """Raises: CheckpointError naming the first file that is absent or not as it was written."""
    state = read_json(path / STATE) if (path / STATE).is_file() else None
    if state is None or not isinstance(state.get("files"), dict):
        raise CheckpointError("the checkpoint is not whole", where=path, expected=STATE)
    for name, expected in state["files"].items():
        file = path / name
        if not file.is_file() or file_sha256(file) != expected:
            raise CheckpointError("a file is absent or damaged", where=file, expected=f"sha256 {expected[:12]}…")


def training_tensors(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Array]:
    """The optimizers' state, ``optimizer.0.layers.0.mlp.up_proj.weight.exp_avg``, and the random generators'."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {"random.cpu": to_array(torch.get_rng_state())}
    if torch.cuda.is_available():
        tensors["random.cuda"] = to_array(torch.cuda.get_rng_state())
    for number, optimizer in enumerate(optimizers):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer.{number}.{names[parameter]}.{key}"] = to_array(whole(value))
    return tensors


def restore_training(path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """Give optimizers and random generators what they held; returns the rest of the state. The model's weights are loaded apart."""
    tensors = SafetensorsFile(path / TENSORS)
    by_weight: dict[str, dict[str, Tensor]] = {}
    for name, array in tensors.items():
        owner, _, key = name.rpartition(".")
        by_weight.setdefault(owner, {})[key] = to_tensor(array).clone()
    names = {parameter: name for name, parameter in model.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = by_weight.get(f"optimizer.{number}.{names[parameter]}")
                if state is not None:
                    optimizer.state[parameter] = {key: placed_like(value, parameter) for key, value in state.items()}
    torch.set_rng_state(by_weight["random"]["cpu"])
    if torch.cuda.is_available() and "cuda" in by_weight["random"]:
        torch.cuda.set_rng_state(by_weight["random"]["cuda"])
    return read_json(path / STATE)


def placed_like(value: Tensor, parameter: Tensor) -> Tensor:
    """State of a weight, where and how the weight is spread; a step count (a scalar) stays whole."""
    if value.ndim == 0:
        return value.to(parameter.device)
    if hasattr(parameter, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]
    return value.to(parameter.device)


def _sync(directory: Path) -> None:
    """Make a directory's entries last: a rename survives a power cut only after this."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
