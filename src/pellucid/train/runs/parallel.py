"""Several processes, started by ``torchrun``: torch's own collectives and FSDP2, nothing of ours.

Parameters, gradients and optimizer state are spread over the processes (``fully_shard``), each layer gathered when it
is needed. Source: Zhao et al. 2023, PyTorch FSDP.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pellucid.base.errors import ConfigError, PellucidError
from pellucid.config import ModelConfig
from pellucid.model.decoder import Decoder

Problem = TypeVar("Problem", bound=PellucidError)


def reshard(model: nn.Module) -> None:
    """Let go of parameters that a forward pass without a backward one left gathered on every process."""
    if dist.is_available() and dist.is_initialized():
        from torch.distributed.fsdp import FSDPModule

        if isinstance(model, FSDPModule):
            model.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The tensor's values on this process, gathered where it is spread over several."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]


def placed_like(value: Tensor, parameter: Tensor) -> Tensor:
    """State of a weight, where and how the weight is spread; a step count (a scalar) stays whole. Every process has the
    whole value.
    """
    if value.ndim and hasattr(parameter, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
        return distribute_tensor(value, mesh, placements, src_data_rank=None).to(parameter.device)
    return value.to(parameter.device)


def agree_to_stop(reason: str | None) -> str | None:
    """A reason where any process has one: signals reach processes at different steps, and all must take the same."""
    asked = torch.tensor(int(reason is not None), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(asked, dist.ReduceOp.MAX)
    return reason or ("another process was asked to" if asked else None)


def agreed(number: float) -> float:
    """The first process's number, on all: what is decided by it must be decided alike."""
    numbers = [number]
    dist.broadcast_object_list(numbers, src=0)
    return numbers[0]


def agree_on_problem(problem: Problem | None) -> Problem | None:
    """The problem of the first process that has one; None where none has."""
    problems: list[Problem | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    return next((one for one in problems if one is not None), None)


class Processes:
    """The processes of this run; one, where torchrun did not start it. ``with Processes(device) as processes:``."""

    def __init__(self, device: torch.device) -> None:
        self.count, self.rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        self.device = (
            torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            if device.type == "cuda" and self.count > 1
            else device
        )

    @property
    def first(self) -> bool:
        return self.rank == 0

    def __enter__(self) -> Processes:
        if self.count > 1:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.count > 1:
            dist.destroy_process_group()

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The first process goes through the block alone; the others follow, and find what it made."""
        if self.count > 1 and not self.first:
            dist.barrier()
        yield
        if self.count > 1 and self.first:
            dist.barrier()

    @torch.no_grad()
    def fresh(self, config: ModelConfig, generator: torch.Generator) -> Decoder:
        """A model of fresh weights, the same on any number of processes; of several, each makes one weight at a time
        and keeps its part.
        """
        if self.count == 1:
            return Decoder(config).initialize(generator)
        with torch.device("meta"):
            model = Decoder(config)
        buffers = dict(model.named_buffers())  # derived from the config, and no part of what is spread
        self.spread(model)
        model.to_empty(device=self.device)
        for name, buffer in buffers.items():
            model.register_buffer(name, buffer.to(self.device), persistent=False)
        for name, parameter in model.named_parameters():
            weight = torch.empty(parameter.shape)
            model.initialize_weight(name, weight, generator)
            parameter.copy_(placed_like(weight, parameter))
        return model

    def spread(self, model: Decoder) -> None:
        """Shard the model, in place, layer by layer. Raises: ConfigError for one whose layers do not allow it."""
        if self.count == 1 or any(hasattr(parameter, "device_mesh") for parameter in model.parameters()):
            return
        if not dist.is_available():
            raise ConfigError("this build of torch has no distributed package", remedy="run one process")
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        mesh = init_device_mesh(self.device.type, (self.count,))
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, "hidden")
