"""Checkpoints of a run: all that is needed to go on exactly as if nothing had happened, whole or absent.

    RUN/checkpoints/step-00000500/
        config.json, model.safetensors, tokenizer…   a model like any other: load it, run it, explain it
        training.safetensors                         optimizer state by weight name, random generators
        training.json                                step, data position, and every file's sha256; written last

Of several processes each writes the part of weights and optimizer state that it holds, and no process ever holds more;
all else is as above (``model.safetensors`` is written of the last checkpoint, when the run is done; an adapter, which
is small, always):

        process-00001-of-00002.safetensors …, distributed.json

Either goes on with any number of processes. A checkpoint is written under a hidden name and renamed when all of it is
on the disk. What a kill leaves is removed at the next start.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pellucid.base.array import Array
from pellucid.base.errors import CheckpointError
from pellucid.base.files import file_sha256, read_json, write_json
from pellucid.checkpoint.files.distributed import MODEL, DistributedTensors, Spread, is_distributed
from pellucid.checkpoint.files.safetensors import SafetensorsFile
from pellucid.checkpoint.open import open_checkpoint
from pellucid.checkpoint.save import description, save_checkpoint
from pellucid.config import ModelConfig
from pellucid.model.load import to_tensor
from pellucid.train.runs.parallel import agree_on_problem, placed_like

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


def write_description(
    folder: Path,
    *,
    config: ModelConfig,
    tokenizer: Tokenizer | None = None,
    generation_config: Mapping[str, Any] | None = None,
) -> None:
    """What ``write_model`` writes, but the weights, which lie in the parts of several processes."""
    write_json(folder / "config.json", description(config, "float32"))
    if generation_config:
        write_json(folder / "generation_config.json", dict(generation_config))
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


class Checkpoints:
    """The checkpoints of one run. The latest ``keep`` stay (0: all), and the ``best`` step. All processes look and
    verify; the first one makes and removes.
    """

    best: int | None = None  # the step whose checkpoint stays, however old

    def __init__(self, folder: Path, *, keep: int = 2, rank: int = 0, num_ranks: int = 1) -> None:
        self.folder, self.keep, self.rank, self.num_ranks = folder, keep, rank, num_ranks

    @contextmanager
    def writing(self, step: int, state: Mapping[str, Any]) -> Iterator[Path]:
        """A folder for all of a checkpoint but its state; on the way out it becomes one, and those no longer kept are
        removed.

        Raises: CheckpointError for a full disk.
        """
        final = self.at(step)
        partial = self.folder / f".{final.name}.partial"
        if self.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        yield partial
        if self.rank == 0:
            write_json(partial / STATE, {**state, "step": step, "files": _hashes(partial)})
            for directory in (partial, self.folder):
                _sync(directory)
            if final.exists():  # an earlier run's, of the same step
                shutil.rmtree(final)
            os.rename(partial, final)
            _sync(self.folder)
            for old in self.steps()[: -self.keep] if self.keep else ():
                if self.best is None or old != self.at(self.best):
                    shutil.rmtree(old)

    def at(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[Path]:
        """Checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if path.is_dir())

    def clean(self) -> None:
        """Remove what an interrupted save left."""
        if self.rank == 0:
            for partial in self.folder.glob(".step-*.partial"):
                shutil.rmtree(partial)

    def latest(self, warn: Callable[[str], None] = lambda _: None) -> Path | None:
        """The latest checkpoint all of whose files are as they were written; None where there is no checkpoint.

        Raises: CheckpointError where there are some and none is sound.
        """
        problem = None
        for path in reversed(self.steps()):
            problem = verify(path, self.rank, self.num_ranks)
            if problem is None:
                return path
            warn(f"passing over a damaged checkpoint: {problem}")
        if problem is not None:
            raise problem
        return None


def verify(path: Path, rank: int = 0, num_ranks: int = 1) -> CheckpointError | None:
    """What is wrong with a checkpoint: the first file that is absent or not as it was written. Processes share the
    work, and agree.
    """
    try:
        problem, files = None, _written(path)
    except CheckpointError as error:
        problem, files = error, {}
    for name, expected in sorted(files.items())[rank::num_ranks]:
        file = path / name
        if not file.is_file() or file_sha256(file) != expected:
            problem = CheckpointError("a file is absent or damaged", where=file, expected=f"sha256 {expected[:12]}…")
            break
    return problem if num_ranks == 1 else agree_on_problem(problem)


def _written(path: Path) -> dict[str, str]:
    """The sha256 of every file, as a checkpoint tells them."""
    state = read_json(path / STATE) if (path / STATE).is_file() else {}
    if not isinstance(state.get("files"), dict):
        raise CheckpointError("the checkpoint is not whole", where=path, expected=STATE)
    return state["files"]


def _hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file; those of the processes' parts as these told them."""
    told = {file.name: file.sha256 for file in DistributedTensors(folder).files} if is_distributed(folder) else {}
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    if absent := told.keys() - set(names):
        raise CheckpointError(
            f"{min(absent)} was written, but not here",
            where=folder,
            remedy="--out must be a folder that all processes see",
        )
    return {name: told.get(name) or file_sha256(folder / name) for name in names}


# --- what training needs besides the weights -------------------------------------------------------------------------


def training_tensors(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], of_process: str = ""
) -> dict[str, Tensor]:
    """The optimizers' state, ``optimizer.0.layers.0.mlp.up_proj.weight.exp_avg``, and this process's random generators,
    ``random.cpu``.

    ``of_process``, ``0.`` say, tells generators of several processes apart: ``random.0.cpu``.
    """
    tensors = {f"random.{of_process}cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors[f"random.{of_process}cuda"] = torch.cuda.get_rng_state()
    for owner, parameter, optimizer in _owners(model, optimizers):
        tensors |= {f"{owner}.{key}": value for key, value in optimizer.state.get(parameter, {}).items()}
    return tensors


def restore_training(
    path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], rank: int = 0
) -> dict[str, Any]:
    """Give optimizers and random generators what one process saved; returns the rest of the state. The model's weights
    are loaded apart.
    """
    tensors = SafetensorsFile(path / TENSORS)

    def make(name: str, parameter: nn.Parameter) -> Tensor:
        value = to_tensor(tensors[name])
        if name.endswith(".step"):
            value = value.reshape(())  # (1,) in what earlier versions saved of a run that had been resumed
        return placed_like(value, parameter).clone()

    _fill_optimizers(model, optimizers, tensors, make)
    if rank == 0:  # the others' stay as they were seeded
        _restore_random(tensors)
    return read_json(path / STATE)


def restore_distributed(
    path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], rank: int = 0, num_ranks: int = 1
) -> dict[str, Any]:
    """Give model, optimizers and random generators what several processes saved, each process what it needs; returns
    the rest of the state.

    A process that the checkpoint knows nothing of keeps its random generators as they were seeded.
    """
    from pellucid.train.runs.distributed import load_distributed

    saved = DistributedTensors(path)
    tensors: dict[str, Tensor] = {MODEL + name: parameter for name, parameter in trained_parameters(model).items()}

    def room(name: str, parameter: nn.Parameter) -> Tensor:
        return tensors.setdefault(name, _room_for(saved.spread[name], name, parameter))

    _fill_optimizers(model, optimizers, saved, room)
    load_distributed(saved, tensors, alone=num_ranks == 1)
    _restore_random(saved, f"{rank}.")
    return read_json(path / STATE)


def _owners(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> Iterator[tuple[str, nn.Parameter, torch.optim.Optimizer]]:
    """Every parameter that an optimizer moves, and the name under which its state is kept."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield f"optimizer.{number}.{names[parameter]}", parameter, optimizer


def _fill_optimizers(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    saved: Iterable[str],
    make: Callable[[str, nn.Parameter], Tensor],
) -> None:
    """Give each optimizer the state that there is of its parameters, by name; ``make`` gives a tensor of it."""
    keys: dict[str, list[str]] = {}
    for name in saved:
        owner, _, key = name.rpartition(".")
        keys.setdefault(owner, []).append(key)
    for owner, parameter, optimizer in _owners(model, optimizers):
        if owner in keys:
            optimizer.state[parameter] = {key: make(f"{owner}.{key}", parameter) for key in keys[owner]}


def _restore_random(saved: Mapping[str, Array], of_process: str = "") -> None:
    if (name := f"random.{of_process}cpu") in saved:
        torch.set_rng_state(to_tensor(saved[name]).clone())
    if (name := f"random.{of_process}cuda") in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state(to_tensor(saved[name]).clone())


def _room_for(its: Spread, name: str, parameter: nn.Parameter) -> Tensor:
    """Zeros, where and how a weight is spread; a step count (a scalar) stays whole. Raises: CheckpointError for another
    shape.
    """
    if its.shape not in ((), tuple(parameter.shape)):
        raise CheckpointError(
            f"{name} is no state of this model", expected=list(parameter.shape), received=list(its.shape)
        )
    dtype = getattr(torch, its.dtype)
    return (
        torch.zeros_like(parameter, dtype=dtype) if its.shape else torch.zeros((), dtype=dtype, device=parameter.device)
    )


def _sync(directory: Path) -> None:
    """Make a directory's entries last: a rename survives a power cut only after this."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
