"""safetensors, written: one pass over the weights, one of them in memory at a time, cut into shards.

The header comes first in a file but is known last. So room is left for it, by an upper bound from the names alone, and
what it does not fill is spaces, which the format allows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import CheckpointError
from pellucid.checkpoint.files.safetensors import DTYPES, MAX_HEADER_BYTES
from pellucid.checkpoint.files.staging import Staging

MAX_SHARD_BYTES = 5 * 10**9  # transformers' default was 5GB for years: a file that every tool and file system takes
MAX_DIMS = 8
NAMES = {ours: theirs for theirs, ours in DTYPES.items()}
ALIGNMENT = 64  # of the first tensor, in bytes


def save_safetensors(
    path: str | Path,
    arrays: Mapping[str, Array],
    metadata: Mapping[str, str] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[Path]:
    """Write ``path``, or, beyond ``max_shard_bytes``, ``NAME-00001-of-0000N.safetensors`` … and
    ``NAME.safetensors.index.json``.

    ``arrays`` may make each Array as it is asked for: each is asked for once, and let go. The files of an earlier save
    stay until all is written. Returns the paths written.

    Raises: CheckpointError for a dtype that has no place in the format, and for a full disk.
    """
    path = Path(path)
    with Staging(path.parent) as staging:
        steps = stage_safetensors(staging, path.name, arrays, metadata, max_shard_bytes)
        staging.commit(steps)
    return [path.parent / step[1] for step in steps if not isinstance(step, str)]


def stage_safetensors(
    staging: Staging, name: str, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None, max_shard_bytes: int
) -> list[tuple[BinaryIO, str] | str]:
    """Write the shards under temporary names. Returns the commit's steps.

    Between two steps a reader finds the old weights, the new ones, or an error; never some of each.
    """
    metadata = {"format": "pt"} if metadata is None else dict(metadata)
    room = _header_room(arrays.keys(), metadata)
    shards: list[_Shard] = []
    for tensor, array in arrays.items():
        if not shards or (shards[-1].entries and shards[-1].size + array.nbytes > max_shard_bytes):
            shards.append(_Shard(staging.open(), room))
        shards[-1].add(tensor, array)
    if not shards:
        shards.append(_Shard(staging.open(), room))
    for shard in shards:
        shard.write_header(metadata)
    stem, count = name.removesuffix(".safetensors"), len(shards)
    index_name = f"{name}.index.json"
    if count == 1:
        return [(shards[0].file, name), *_others(staging.folder, name, keep={name})]
    names = [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    weight_map = {tensor: file for shard, file in zip(shards, names, strict=True) for tensor in shard.entries}
    index = staging.json({"metadata": {"total_size": sum(shard.size for shard in shards)}, "weight_map": weight_map})
    placed = [(shard.file, file) for shard, file in zip(shards, names, strict=True)]
    return [index_name, *placed, *_others(staging.folder, name, keep=set(names)), (index, index_name)]


def _others(folder: Path, name: str, keep: set[str]) -> list[str]:
    """Files of an earlier save under the same name that would not be replaced: to be removed."""
    stem = re.escape(name.removesuffix(".safetensors"))
    ours = re.compile(rf"{stem}(-\d{{5}}-of-\d{{5}})?\.safetensors|{stem}\.safetensors\.index\.json")
    return sorted(file.name for file in folder.iterdir() if ours.fullmatch(file.name) and file.name not in keep)


class _Shard:
    """One file being written: room for the header, then tensors."""

    def __init__(self, file: BinaryIO, room: int) -> None:
        self.file, self.room, self.size = file, room, 0
        self.entries: dict[str, dict[str, Any]] = {}
        file.seek(8 + room)

    def add(self, name: str, array: Array) -> None:
        if array.dtype not in NAMES:
            raise CheckpointError(
                f"{name} is {array.dtype}, which safetensors cannot hold",
                remedy="convert it to float32 or bfloat16 first",
            )
        if len(array.shape) > MAX_DIMS:
            raise CheckpointError(
                f"{name} has too many dimensions", expected=f"at most {MAX_DIMS}", received=len(array.shape)
            )
        stop = self.size + array.nbytes
        self.entries[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [self.size, stop],
        }
        for part in _contiguous(array.data):
            self.file.write(part)
        self.size = stop

    def write_header(self, metadata: dict[str, str]) -> None:
        header = _json({"__metadata__": metadata, **self.entries})
        assert len(header) <= self.room
        self.file.seek(0)
        self.file.write(self.room.to_bytes(8, "little") + header.ljust(self.room))


def _json(header: dict[str, Any]) -> bytes:
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()


def _header_room(names: Iterable[str], metadata: dict[str, str]) -> int:
    """Bytes that a header of these tensors takes at most, such that the first tensor is aligned."""
    most = 2**63  # no size or offset is longer written out
    widest = {"dtype": "BF16", "shape": [most] * 2, "data_offsets": [most] * 2}
    length = len(_json({"__metadata__": metadata, **dict.fromkeys(names, widest)}))
    room = (8 + length + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT - 8
    if room > MAX_HEADER_BYTES:
        raise CheckpointError(
            "too many tensors for a safetensors header", expected=f"at most {MAX_HEADER_BYTES} bytes", received=room
        )
    return room


def _contiguous(data: np.ndarray) -> Iterator[memoryview]:
    """The bytes of ``data`` in row-major order; without a copy where they lie so already, row by row where not."""
    if data.flags.c_contiguous or data.ndim < 2:
        yield np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
    else:
        for part in data:
            yield from _contiguous(part)
