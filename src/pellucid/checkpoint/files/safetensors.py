"""safetensors, read: a JSON header, then the tensors' bytes end to end, memory-mapped.

    8 bytes   N, the header's length, little-endian
    N bytes   {"name": {"dtype": "BF16", "shape": [576, 576], "data_offsets": [0, 663552]}, …, "__metadata__": {…}}
    the rest  the tensors' bytes; offsets count from here, and every byte belongs to exactly one tensor

A header is believed only after every number in it has been checked against the file.

Read by hand, and not by the ``safetensors`` package, for two reasons: a file from a stranger must fail with an error
that says where, in time and memory bounded by its size; and its tensors are views of one map, bfloat16 among them,
which numpy has no name for, so that opening costs milliseconds and no copy is made on the way to either executor.

Source: https://github.com/huggingface/safetensors, README.md (Format) and safetensors/src/tensor.rs.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pellucid.base.array import Array, array_bytes
from pellucid.base.errors import CheckpointError, UnsupportedError
from pellucid.base.files import map_file
from pellucid.checkpoint.files.lazy import Lazy

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_DIMS = 16
MAX_ELEMENTS = 2**48  # a bound on shapes that hold nothing: a 0 in a shape hides what the other dimensions are

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class _Entry:
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int  # bytes, from the first tensor's first
    stop: int


class SafetensorsFile(Lazy):
    """One ``.safetensors`` file: name → Array, each a view of the map, in the order in which they lie in the file.

    Raises: CheckpointError for a file that is damaged in any way; UnsupportedError for a dtype we cannot hold.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        buffer = map_file(self.path)
        header, data = _split(buffer, self.path)
        metadata = _metadata(header.pop("__metadata__", None), self.path)
        entries = [_entry(name, info, self.path) for name, info in header.items()]
        entries.sort(key=lambda entry: (entry.start, entry.stop))
        _check_cover(entries, len(data), self.path)
        super().__init__(
            {
                entry.name: partial(Array.from_buffer, entry.dtype, entry.shape, data[entry.start : entry.stop])
                for entry in entries
            },
            # tensors that share memory are written once; safetensors' save_model keeps the others' names here
            {name: kept for name, kept in metadata.items() if kept in header and name not in header},
            metadata,
        )


def _check_cover(entries: list[_Entry], length: int, where: Path) -> None:
    """Every byte belongs to exactly one tensor."""
    end = 0
    for entry in entries:
        if entry.start != end:
            what = (
                "overlaps the tensor before it"
                if entry.start < end
                else f"leaves {entry.start - end} bytes unused before it"
            )
            raise CheckpointError(
                f"{entry.name} {what}", where=where, remedy="the header is damaged; download the file again"
            )
        end = entry.stop
    if end != length:
        raise CheckpointError(
            "the file's length does not fit its header",
            where=where,
            expected=f"{end} bytes of tensors",
            received=length,
            remedy="the download is incomplete or damaged; fetch the file again",
        )


def _split(buffer: memoryview, where: Path) -> tuple[dict[str, Any], memoryview]:
    """The parsed header, and the tensors' bytes."""
    length = int.from_bytes(buffer[:8], "little") if len(buffer) >= 8 else -1
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(buffer) - 8):
        raise CheckpointError(
            "not a safetensors file, or a truncated one",
            where=where,
            expected=f"a header of 2 to {max(2, min(MAX_HEADER_BYTES, len(buffer) - 8))} bytes",
            received=length if length >= 0 else f"{len(buffer)} bytes in all",
            remedy="download it again",
        )
    try:
        header = json.loads(str(buffer[8 : 8 + length], "utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the header is not valid JSON: {error}", where=where, remedy="the file is damaged; download it again"
        ) from None
    if not isinstance(header, dict):
        raise CheckpointError("the header is not a JSON object", where=where, received=type(header).__name__)
    return header, buffer[8 + length :]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are all different, and can be printed."""
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"{twice!r} is there twice")
    for name in made:
        if not name.isprintable():
            raise ValueError(f"{name!r} is no name that can be shown")
    return made


def _metadata(value: Any, where: Path) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise CheckpointError("__metadata__ must map strings to strings", where=where)
    return value


def _entry(name: str, info: Any, where: Path) -> _Entry:
    """One tensor's header entry; its size must be what dtype and shape ask for."""

    def is_size(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0

    def wrong(what: str, received: Any) -> CheckpointError:
        return CheckpointError(
            f"{name} {what}",
            where=where,
            received=repr(received)[:200],
            remedy="the header is damaged; download the file again",
        )

    if not isinstance(info, dict):
        raise wrong("is not described by a JSON object", info)
    dtype, shape, offsets = info.get("dtype"), info.get("shape"), info.get("data_offsets")
    if not isinstance(dtype, str):
        raise wrong("has no dtype", dtype)
    if dtype not in DTYPES:
        raise UnsupportedError(
            f"{name} is of dtype {dtype[:40]!r}", where=where, expected="one of " + ", ".join(DTYPES)
        )
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(map(is_size, shape)):
        raise wrong("has no valid shape", shape)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(is_size, offsets)) or offsets[0] > offsets[1]:
        raise wrong("has no valid data_offsets", offsets)
    if math.prod(size or 1 for size in shape) > MAX_ELEMENTS:
        raise wrong("is too large", shape)
    size = array_bytes(DTYPES[dtype], tuple(shape))
    if offsets[1] - offsets[0] != size:
        raise wrong(f"of {dtype} {shape} takes {size} bytes, but its offsets differ", offsets)
    return _Entry(name, DTYPES[dtype], tuple(shape), *offsets)
