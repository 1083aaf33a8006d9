"""Importance matrices: what each column of each tensor counts, under GGUF's names; read and written as llama.cpp does.

A file is GGUF of ``general.type`` imatrix: for each matrix NAME its NAME.in_sum2, Σ x² of each column (of each expert),
and NAME.counts, over how many rows. Source: llama.cpp, tools/imatrix/README.md; common/imatrix-loader.cpp.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import CheckpointError
from pellucid.base.files import atomic_write
from pellucid.checkpoint.files.gguf import GGUFFile
from pellucid.checkpoint.files.gguf_write import Tensor, write_gguf
from pellucid.checkpoint.gguf_out import Importance
from pellucid.families.translation.rules import Match

LEAST = 1e-6  # of the mean: what a column that the text never reached counts
BOUNDS = 1e-30, 1e30  # products of them with squares of weights are within float32
SUMS, COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True)
class Imatrix:
    """``sums``: their name → (matrices, columns); ``counts``: (matrices,)."""

    sums: Mapping[str, np.ndarray]
    counts: Mapping[str, np.ndarray]
    datasets: tuple[str, ...] = ()
    num_chunks: int = 0
    chunk_len: int = 0

    def importance(self) -> Importance:
        """Mean squares. What was never reached counts as much as everything else of it, an expert as 1 throughout."""
        made: dict[str, np.ndarray] = {}
        for name, sums in self.sums.items():
            counts = self.counts[name][:, None]
            means = np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)
            means = np.where(means > 0, means, LEAST * means.mean(axis=1, keepdims=True))
            means = np.clip(np.where(means > 0, means, 1.0), *BOUNDS).astype(np.float32)
            made[name] = means[0] if len(means) == 1 else means
        return made

    def about(self, file: str) -> dict[str, Any]:
        """What a quantized file says of it."""
        said: dict[str, Any] = {"quantize.imatrix.file": file, "quantize.imatrix.entries_count": len(self.sums)}
        if self.datasets:
            said["quantize.imatrix.dataset"] = self.datasets[0]
        return said | {"quantize.imatrix.chunks_count": self.num_chunks}


def by_their_names(sums: Mapping[str, tuple[np.ndarray, int]], matches: Iterable[Match], **facts: Any) -> Imatrix:
    """From sums under our names. A fused tensor has one input; a stack has its experts', in order."""
    made: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    for match in matches:
        stacked = ".experts." in match.ours[0]
        names = match.ours if stacked else match.ours[:1]
        known = [sums[name] for name in names if name in sums]
        if not known:
            continue
        width = len(known[0][0])
        parts = [sums.get(name, (np.zeros(width), 0)) for name in names]
        made[match.theirs] = np.stack([part[0] for part in parts])
        counts[match.theirs] = np.array([part[1] for part in parts], np.float64)
    return Imatrix(made, counts, **facts)


def read_imatrix(path: str | Path) -> Imatrix:
    """Raises: CheckpointError for a file that is something else, or whose numbers cannot be."""
    file = GGUFFile(path)
    kind = file.metadata.get("general.type")
    if not isinstance(kind, str) or kind != "imatrix":
        raise CheckpointError(
            "not an importance matrix", where=path, expected="general.type = imatrix", remedy="or give a text"
        )
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    for name in file.tensors:
        if not name.endswith(SUMS):
            continue
        base = name.removesuffix(SUMS)
        if base + COUNTS not in file.tensors:
            raise CheckpointError(f"{base}{COUNTS} is missing beside {name}", where=path)
        values, rows = file.tensors[name], file.tensors[base + COUNTS]
        columns = values.shape[-1]
        if values.dtype != "float32" or rows.dtype != "float32":
            raise CheckpointError(f"{name} is not float32", where=path, received=values.dtype)
        table, numbers = values.data.reshape(-1, columns).astype(np.float64), rows.data.reshape(-1).astype(np.float64)
        if len(table) != len(numbers) or not (np.isfinite(table).all() and np.isfinite(numbers).all()):
            raise CheckpointError(f"{name} and its counts do not fit", where=path)
        if (table < 0).any() or (numbers < 0).any():
            raise CheckpointError(f"{name}: a sum of squares is negative", where=path)
        sums[base], counts[base] = table, numbers
    if not sums:
        raise CheckpointError("the importance matrix is empty", where=path)
    datasets = file.metadata.get("imatrix.datasets")
    number = {
        key: value
        for key in ("chunk_count", "chunk_size")
        if isinstance(value := file.metadata.get(f"imatrix.{key}"), int)
    }
    return Imatrix(
        sums,
        counts,
        tuple(datasets) if isinstance(datasets, list) else (),
        number.get("chunk_count", 0),
        number.get("chunk_size", 0),
    )


def write_imatrix(path: str | os.PathLike[str], imatrix: Imatrix) -> None:
    """A file that llama.cpp's quantizer reads, too."""
    metadata = {
        "general.type": "imatrix",
        "imatrix.datasets": list(imatrix.datasets),
        "imatrix.chunk_count": imatrix.num_chunks,
        "imatrix.chunk_size": imatrix.chunk_len,
    }
    tensors: list[Tensor] = []
    for name, sums in sorted(imatrix.sums.items()):
        for suffix, values in ((SUMS, sums), (COUNTS, imatrix.counts[name][:, None])):
            array = Array.from_numpy(np.ascontiguousarray(values, np.float32))
            tensors.append(Tensor(name + suffix, "float32", array.shape, lambda array=array: [array]))
    with atomic_write(path) as file:
        write_gguf(file, metadata, tensors)
