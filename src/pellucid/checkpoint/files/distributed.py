"""A checkpoint that several processes wrote, each its own part; here it is read as one, and without torch.

    process-00001-of-00002.safetensors …   the rows of each tensor that a process held distributed.json
    which rows of which tensor lie in which file, and each file's size and SHA-256

    {"format": 1,
     "files": [{"name": "process-00001-of-00002.safetensors", "bytes": 1234, "sha256": "…"}, …], "tensors":
     {"model.embed.weight": {"dtype": "float32", "shape": [512, 64], "rows": [[0, 0, 256], [1, 256, 512]]}, …}}

``rows`` are (number of the file, first row, the row after the last); together they are every row, once. A scalar is one
row. The weights of a model stand under ``model.``, by our names; what else training needs lies beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.base.array import STORAGE, Array
from pellucid.base.errors import CheckpointError
from pellucid.base.files import atomic_write, read_json
from pellucid.checkpoint.files.lazy import Lazy
from pellucid.checkpoint.files.safetensors import SafetensorsFile
from pellucid.checkpoint.files.shards import inside

INDEX, FORMAT = "distributed.json", 1
MODEL = "model."


@dataclass(frozen=True)
class PartFile:
    """What one process wrote."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Rows:
    """Rows ``start`` to ``stop`` of a tensor, all that a file holds of it."""

    file: int  # its number in the index
    start: int
    stop: int


@dataclass(frozen=True)
class Spread:
    """Where the rows of a tensor lie, in order."""

    dtype: str
    shape: tuple[int, ...]
    rows: tuple[Rows, ...]


def is_distributed(folder: Path) -> bool:
    return (folder / INDEX).is_file()


def part_name(rank: int, count: int) -> str:
    return f"process-{rank + 1:05d}-of-{count:05d}.safetensors"


def write_index(folder: Path, files: Sequence[PartFile], tensors: Mapping[str, Spread]) -> None:
    described = {
        name: {
            "dtype": spread.dtype,
            "shape": spread.shape,
            "rows": [(rows.file, rows.start, rows.stop) for rows in spread.rows],
        }
        for name, spread in tensors.items()
    }
    with atomic_write(folder / INDEX, "w") as file:
        json.dump(
            {"format": FORMAT, "files": [asdict(file) for file in files], "tensors": described},
            file,
            separators=(",", ":"),
        )


class DistributedTensors(Lazy):
    """The tensors of such a checkpoint: name → Array, put together from its parts when it is asked for.

    Files are mapped when something in them is wanted. Raises: CheckpointError for an index that contradicts itself, or
    a file that is absent, of another size, or holds something else than the index says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.index = folder, folder / INDEX
        described = read_json(self.index)
        if described.get("format") != FORMAT:
            raise CheckpointError(
                "a format that this version does not know",
                where=self.index,
                expected=FORMAT,
                received=repr(described.get("format")),
            )
        files, tensors = described.get("files"), described.get("tensors")
        if not isinstance(files, list) or not isinstance(tensors, dict):
            raise CheckpointError(
                "the index lacks its files or tensors", where=self.index, remedy="take another checkpoint of the run"
            )
        self.files = [self._file(entry) for entry in files]
        self.spread = {name: self._spread(name, entry) for name, entry in tensors.items()}
        self._open: dict[int, SafetensorsFile] = {}
        super().__init__({name: partial(self._whole, name) for name in self.spread})

    def part(self, name: str, rows: Rows) -> Array:
        """Some rows of a tensor, as they lie in their file: a view."""
        file, spread = self._opened(rows.file), self.spread[name]
        shape = (rows.stop - rows.start, *spread.shape[1:]) if spread.shape else ()
        array = file.get(name)
        if array is None or (array.dtype, array.shape) != (spread.dtype, shape):
            raise CheckpointError(
                f"{name} is not there as the index says",
                where=file.path,
                expected=f"{spread.dtype} {list(shape)}",
                received="nothing" if array is None else f"{array.dtype} {list(array.shape)}",
                remedy="take another checkpoint of the run",
            )
        return array

    def _whole(self, name: str) -> Array:
        spread = self.spread[name]
        parts = [self.part(name, rows) for rows in spread.rows]
        return (
            parts[0]
            if len(parts) == 1
            else Array(spread.dtype, spread.shape, np.concatenate([part.data for part in parts]))
        )

    def _opened(self, number: int) -> SafetensorsFile:
        if number not in self._open:
            listed = self.files[number]
            path = inside(self.folder, listed.name, self.index)
            if path.stat().st_size != listed.bytes:
                raise _damaged(path, f"{listed.bytes} bytes", path.stat().st_size)
            self._open[number] = SafetensorsFile(path)
        return self._open[number]

    # --- the index is believed when it has been checked -------------------------------------------------------------

    def _file(self, entry: Any) -> PartFile:
        if (
            isinstance(entry, dict)
            and isinstance(entry.get("name"), str)
            and _is_count(entry.get("bytes"))
            and isinstance(entry.get("sha256"), str)
        ):
            return PartFile(entry["name"], entry["bytes"], entry["sha256"])
        raise CheckpointError("a file needs name, bytes and sha256", where=self.index, received=repr(entry)[:200])

    def _spread(self, name: str, entry: Any) -> Spread:
        entry = entry if isinstance(entry, dict) else {}
        dtype, shape, rows = entry.get("dtype"), entry.get("shape"), entry.get("rows")
        if not isinstance(dtype, str) or dtype not in STORAGE or not _counts(shape) or not isinstance(rows, list):
            raise CheckpointError(
                f"{name} is not described as it must be", where=self.index, received=repr(entry)[:200]
            )
        made = tuple(Rows(*one) for one in rows if _counts(one, 3) and one[0] < len(self.files) and one[1] < one[2])
        edges = [0, *(one.stop for one in made)]
        if (
            len(made) < len(rows)
            or [one.start for one in made] != edges[:-1]
            or edges[-1] != (shape[0] if shape else 1)
        ):
            raise CheckpointError(
                f"the rows of {name} are not every row, once", where=self.index, received=repr(rows)[:200]
            )
        return Spread(dtype, tuple(shape), made)


def model_weights(tensors: DistributedTensors) -> Lazy:
    """Those that belong to the model, by our names."""
    return Lazy(
        {name.removeprefix(MODEL): partial(tensors.__getitem__, name) for name in tensors if name.startswith(MODEL)}
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _counts(value: Any, length: int | None = None) -> bool:
    return isinstance(value, list) and (length is None or len(value) == length) and all(map(_is_count, value))


def _damaged(path: Path, expected: object, received: object) -> CheckpointError:
    return CheckpointError(
        "the file is damaged",
        where=path,
        expected=expected,
        received=received,
        remedy="take another checkpoint of the run",
    )
