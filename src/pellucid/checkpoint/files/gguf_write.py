"""GGUF, written: the header, whose every size is known beforehand, then one tensor after the other, rows at a time.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; see ``gguf`` for the layout.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from pellucid.base.array import Array, array_bytes
from pellucid.base.errors import CheckpointError
from pellucid.checkpoint.files.gguf import ALIGNMENT, ARRAY, BOOL, MAX_DIMS, STRING, TYPES

VERSION = 3
MAX_NAME = 63  # bytes; ggml keeps 64 with the zero that ends it
KINDS = {dtype: kind for kind, dtype in TYPES.items()}
U32, I32, F32, U64, I64, F64 = 4, 5, 6, 10, 11, 12
_OF_NUMPY = {
    "uint8": 0, "int8": 1, "uint16": 2, "int16": 3, "uint32": U32, "int32": I32, "float32": F32, "bool": BOOL,
    "uint64": U64, "int64": I64, "float64": F64,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written: ``parts`` makes its rows in order, as Arrays of ``dtype``, and may hold one at a time."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: Callable[[], Iterable[Array]]

    @property
    def nbytes(self) -> int:
        return array_bytes(self.dtype, self.shape)


def write_gguf(
    file: IO[bytes],
    metadata: Mapping[str, Any],
    tensors: Sequence[Tensor],
    wrote: Callable[[str, int], None] = lambda name, nbytes: None,
) -> None:
    """The whole file. Whole numbers become uint32 (int32, uint64 where they must), floats float32. ``wrote`` hears of
    each part's bytes.

    Raises: CheckpointError for a name or a value that the format has no place for, or parts that are not the tensor.
    """
    file.write(header(metadata, tensors))
    for tensor in tensors:
        file.write(bytes(-file.tell() % ALIGNMENT))
        start = file.tell()
        for part in tensor.parts():
            if part.dtype != tensor.dtype:
                raise CheckpointError(f"{tensor.name} is not of its type", expected=tensor.dtype, received=part.dtype)
            for piece in _pieces(part.data):
                file.write(piece)
                wrote(tensor.name, len(piece))
        if file.tell() - start != tensor.nbytes:
            raise CheckpointError(
                f"{tensor.name} has the wrong size", expected=f"{tensor.nbytes} bytes", received=file.tell() - start
            )
    file.write(bytes(-file.tell() % ALIGNMENT))


def header(metadata: Mapping[str, Any], tensors: Sequence[Tensor]) -> bytes:
    """All that stands before the tensors' data, padding included."""
    out = [b"GGUF", struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        kind, data = _value(key, value)
        out += [_string(key), struct.pack("<I", kind), data]
    offset = 0
    for tensor in tensors:
        name = tensor.name.encode()
        if len(name) > MAX_NAME or not 0 < len(tensor.shape) <= MAX_DIMS or tensor.dtype not in KINDS:
            raise CheckpointError(
                f"{tensor.name} has no place in a GGUF file",
                expected=f"a name of at most {MAX_NAME} bytes, 1 to {MAX_DIMS} dimensions",
                received=f"{tensor.dtype} {list(tensor.shape)}",
            )
        sizes = tensor.shape[::-1]
        out += [_string(tensor.name), struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)]
        out.append(struct.pack("<IQ", KINDS[tensor.dtype], offset))
        offset += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    whole = b"".join(out)
    return whole + bytes(-len(whole) % ALIGNMENT)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(key: str, value: Any) -> tuple[int, bytes]:
    """A value's type number and its bytes."""
    if isinstance(value, np.ndarray):
        kind = _OF_NUMPY.get(value.dtype.name)
        if value.ndim != 1 or kind is None:
            raise CheckpointError(f"{key}: an array of {value.dtype} {list(value.shape)} has no place in GGUF")
        data = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
        return ARRAY, struct.pack("<IQ", kind, len(value)) + data
    if isinstance(value, (list, tuple)):
        if all(isinstance(item, str) for item in value):
            return ARRAY, struct.pack("<IQ", STRING, len(value)) + b"".join(map(_string, value))
        if all(isinstance(item, bool) for item in value):
            return _value(key, np.array(value, bool))
        dtype = np.float32 if any(isinstance(item, float) for item in value) else np.int32
        return _value(key, np.array(value, dtype))
    if isinstance(value, str):
        return STRING, _string(value)
    if isinstance(value, (bool, np.bool_)):
        return BOOL, bytes([bool(value)])
    if isinstance(value, (float, np.floating)):
        return F32, struct.pack("<f", value)
    if isinstance(value, (int, np.integer)) and -(2**63) <= value < 2**64:
        number = int(value)
        kinds = (
            (U32, "<I", 0, 2**32),
            (I32, "<i", -(2**31), 2**31),
            (U64, "<Q", 0, 2**64),
            (I64, "<q", -(2**63), 2**63),
        )
        return next((kind, struct.pack(form, number)) for kind, form, low, high in kinds if low <= number < high)
    raise CheckpointError(f"{key}: {type(value).__name__} has no place in GGUF", received=repr(value)[:80])


def _pieces(data: np.ndarray) -> Iterator[memoryview]:
    """The bytes in row-major order; row by row where they do not lie so."""
    if data.flags.c_contiguous or data.ndim < 2:
        yield np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
    else:
        for part in data:
            yield from _pieces(part)
