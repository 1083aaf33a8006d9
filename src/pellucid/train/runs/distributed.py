"""Checkpoints of several processes, through torch's distributed checkpoints (DCP): each writes its own rows, each reads
back what it needs.

DCP's planners decide who writes and reads which rows, on any number of processes; the storage is ours
(``checkpoint/files/distributed.py``): torch's own is of pickles, or (``HuggingFaceStorageWriter``) has no index, so
that a file that is missing goes unnoticed. The folder must be one that all processes see.

Source: torch.distributed.checkpoint, ``StorageWriter`` and ``StorageReader``.
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from pellucid.base.array import Array
from pellucid.base.errors import CheckpointError, PellucidError
from pellucid.base.files import file_sha256
from pellucid.checkpoint.files.distributed import DistributedTensors, PartFile, Rows, Spread, part_name, write_index
from pellucid.checkpoint.files.lazy import Lazy
from pellucid.checkpoint.files.safetensors_write import save_safetensors
from pellucid.model.load import to_array, to_tensor


def save_distributed(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors that are spread over the processes (or the same on all) into a folder that is there. Every process
    calls it alike.

    Raises: CheckpointError on every process where one of them fails.
    """
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    with _failures_of_processes(folder):
        save(dict(tensors), storage_writer=PartWriter(folder), planner=planner)


def load_distributed(saved: DistributedTensors, tensors: dict[str, Tensor], *, alone: bool) -> None:
    """Fill the tensors by name, in place, each process its own rows. ``alone``: there is but one process.

    Raises: CheckpointError on every process for a tensor that is absent or of another shape, or a damaged file.
    """
    if absent := tensors.keys() - saved.keys():
        raise CheckpointError(
            f"{len(absent)} tensors are not in the checkpoint, {min(absent)} among them", where=saved.folder
        )
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    with _failures_of_processes(saved.folder), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is what is meant
        load(
            {name: tensor.detach() for name, tensor in tensors.items()},
            storage_reader=PartReader(saved),
            planner=planner,
            no_dist=alone,
        )


@contextmanager
def _failures_of_processes(folder: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        if isinstance(cause, PellucidError):
            raise cause from None
        raise CheckpointError(f"process {rank} failed: {cause or type(cause).__name__}", where=folder) from error


# --- the storage -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Written:
    file: PartFile
    start: int  # row
    stop: int


class PartWriter(StorageWriter):
    """One safetensors file a process, and an index by the first of them when all are written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return [replace(plan, storage_data=part_name(rank, len(plans))) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        items = {
            item.index.fqn: item for item in plan.items if math.prod(_chunk(item).sizes)
        }  # of few rows, some processes hold none
        assert len(items) == sum(bool(math.prod(_chunk(item).sizes)) for item in plan.items), (
            "one chunk of a tensor a process"
        )
        if not items:
            return _done([])
        path = self.folder / plan.storage_data
        save_safetensors(
            path,
            Lazy({name: partial(_array, planner, item) for name, item in items.items()}),
            max_shard_bytes=sys.maxsize,
        )
        file = PartFile(path.name, path.stat().st_size, file_sha256(path))
        return _done([WriteResult(item.index, 0, _Written(file, *_rows(item))) for item in items.values()])

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        written = [result for result in results if result]
        rows: dict[str, list[Rows]] = {}
        for number, result in enumerate(written):
            for one in result:
                rows.setdefault(one.index.fqn, []).append(Rows(number, one.storage_data.start, one.storage_data.stop))
        tensors = {
            name: Spread(
                _name(its.properties.dtype), tuple(its.size), tuple(sorted(rows[name], key=lambda one: one.start))
            )
            for name, its in metadata.state_dict_metadata.items()
            if isinstance(its, TensorStorageMetadata)
        }
        write_index(self.folder, [result[0].storage_data.file for result in written], tensors)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None: ...

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None: ...

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True


class PartReader(StorageReader):
    """What ``PartWriter`` wrote, on any number of processes; only the files that hold something wanted are opened."""

    def __init__(self, saved: DistributedTensors) -> None:
        self.saved = saved

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return Metadata({name: _described(its) for name, its in self.saved.spread.items()})

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in plan.items:
            part = to_tensor(self.saved.part(item.storage_index.fqn, self._rows(item)))
            wanted = tuple(
                slice(start, start + length) for start, length in zip(item.storage_offsets, item.lengths, strict=True)
            )
            target = planner.resolve_tensor(item)
            target.copy_(part[wanted])
            planner.commit_tensor(item, target)
        return _done(None)

    def _rows(self, item: ReadItem) -> Rows:
        start = item.storage_index.offset[0] if item.storage_index.offset else 0
        return next(rows for rows in self.saved.spread[item.storage_index.fqn].rows if rows.start == start)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None: ...

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None: ...

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True


def _chunk(item: WriteItem) -> ChunkStorageMetadata:
    assert item.tensor_data is not None, f"{item.index.fqn} is no tensor, and would have to be pickled"
    return item.tensor_data.chunk


def _rows(item: WriteItem) -> tuple[int, int]:
    """The first row of a chunk, and the one after its last. FSDP2 cuts along the first axis alone."""
    chunk, size = _chunk(item), item.tensor_data.size  # type: ignore[union-attr]
    assert chunk.sizes[1:] == size[1:], f"{item.index.fqn} is not cut by rows"
    return (chunk.offsets[0], chunk.offsets[0] + chunk.sizes[0]) if size else (0, 1)


def _array(planner: SavePlanner, item: WriteItem) -> Array:
    tensor = planner.resolve_data(item)
    assert isinstance(tensor, Tensor)
    return to_array(tensor)


def _described(its: Spread) -> TensorStorageMetadata:
    inner = its.shape[1:]
    chunks = [
        ChunkStorageMetadata(
            torch.Size([rows.start, *(0 for _ in inner)]), torch.Size([rows.stop - rows.start, *inner])
        )
        for rows in its.rows
    ]
    if not its.shape:
        chunks = [ChunkStorageMetadata(torch.Size([]), torch.Size([]))]
    return TensorStorageMetadata(TensorProperties(dtype=getattr(torch, its.dtype)), torch.Size(its.shape), chunks)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future
