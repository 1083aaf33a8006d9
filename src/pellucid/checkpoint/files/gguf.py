"""GGUF, read: metadata, tensor descriptions, then the tensors' bytes, memory-mapped. Versions 2 and 3, little-endian.

    "GGUF", version u32, number of tensors u64, number of metadata pairs u64
    pairs     key string, type u32, value                  a string is its length u64 and its UTF-8 bytes
    tensors   name string, number of dimensions u32, sizes u64 …, type u32, offset u64
    padding   to ``general.alignment`` (32)
    data      each tensor at its offset from here

Sizes are written fastest axis first; ``shape`` is row-major, as everywhere else here. A count, length or offset is
believed only after it has been checked against the bytes that are left.

Read by hand, and not by the ``gguf`` package, for two reasons: that takes seconds to list a vocabulary that this reads
in hundredths of one; and a file from a stranger must fail with an error that says where, in time and memory bounded by
its size, where the package believes its counts.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; gguf.cpp of llama.cpp.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.base.array import BLOCKS, Array, array_bytes
from pellucid.base.errors import CheckpointError, UnsupportedError
from pellucid.base.files import map_file
from pellucid.checkpoint.files.lazy import Lazy
from pellucid.checkpoint.files.shards import joined
from pellucid.families.translation.rules import some

ALIGNMENT = 32
MAX_DIMS = 4

# ggml's type number -> our dtype. Source: ggml.h, enum ggml_type.
TYPES = {
    0: "float32",
    1: "float16",
    2: "q4_0",
    3: "q4_1",
    6: "q5_0",
    7: "q5_1",
    8: "q8_0",
    10: "q2_k",
    11: "q3_k",
    12: "q4_k",
    13: "q5_k",
    14: "q6_k",
    16: "iq2_xxs",
    17: "iq2_xs",
    18: "iq3_xxs",
    19: "iq1_s",
    20: "iq4_nl",
    21: "iq3_s",
    22: "iq2_s",
    23: "iq4_xs",
    24: "int8",
    25: "int16",
    26: "int32",
    27: "int64",
    28: "float64",
    29: "iq1_m",
    30: "bfloat16",
    34: "tq1_0",
    35: "tq2_0",
    39: "mxfp4",
    40: "nvfp4",
    41: "q1_0",
    42: "q2_0",
}
# Types that exist and that we do not read, so that an error can name them: those of activations.
UNREAD = {
    9: "Q8_1",
    15: "Q8_K",
}

# Metadata type number -> struct format, for the numbers. Source: gguf.md, gguf_metadata_value_type.
NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 10: "<Q", 11: "<q", 12: "<d"}
BOOL, STRING, ARRAY = 7, 8, 9


class GGUFFile:
    """One GGUF model: ``metadata``, key → value, and ``tensors``, name → Array, each a view of the map.

    Numbers and strings are Python's; an array of numbers is a numpy array, an array of strings a list. Any part of a
    model that was split into ``NAME-00001-of-00003.gguf`` … opens all of them; the metadata are the first part's.

    Raises: CheckpointError for a file that is damaged in any way; UnsupportedError for what we cannot read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metadata, self.tensors = _read(self.path)
        self.paths = [self.path]
        count = self.metadata.get("split.count", 1)
        if not isinstance(count, int):
            raise CheckpointError("split.count must be a number", where=path, received=repr(count)[:80])
        if count > 1:
            self._open_parts(count)

    def _open_parts(self, count: int) -> None:
        named = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.gguf", self.path.name)
        if not named or count != int(named[3]):
            raise CheckpointError(
                f"a part of a model split into {count}, under a name that does not say so",
                where=self.path,
                expected=f"NAME-00001-of-{count:05d}.gguf",
                remedy="rename all parts so, or join them with llama.cpp's gguf-split",
            )
        self.paths = [
            self.path.with_name(f"{named[1]}-{number:05d}-of-{named[3]}.gguf") for number in range(1, count + 1)
        ]
        if absent := [path.name for path in self.paths if not path.is_file()]:
            raise CheckpointError(
                f"{len(absent)} of {count} parts are missing: {some(absent, 8)}", where=self.path.parent
            )
        parts = [_read(path) for path in self.paths]
        self.metadata = parts[0][0]
        for number, (path, (metadata, _)) in enumerate(zip(self.paths, parts, strict=True)):
            said = [metadata.get(f"split.{key}") for key in ("no", "count")]
            if not all(isinstance(value, int) for value in said) or said != [number, count]:
                raise CheckpointError(
                    "the part is of another model, or misnamed", where=path, expected=f"part {number} of {count}"
                )
        self.tensors = joined((tensors for _, tensors in parts), self.path)
        total = self.metadata.get("split.tensors.count")
        if isinstance(total, int) and total != len(self.tensors):
            raise CheckpointError(
                "the parts do not hold all tensors", where=self.path, expected=total, received=len(self.tensors)
            )


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of a GGUF model alone, its tokenizer among them: what follows may be cut off, or be of a family that
    this version does not know. Of a model that was split, the first part's, whichever part is named.

    Raises: CheckpointError, UnsupportedError; as ``GGUFFile``.
    """
    path = Path(path)
    metadata, _, _ = _header(path)
    first = re.sub(r"-\d{5}-of-(\d{5}\.gguf)$", r"-00001-of-\1", path.name)
    if metadata.get("split.no") and first != path.name:
        metadata, _, _ = _header(path.with_name(first))
    return metadata


def _read(path: Path) -> tuple[dict[str, Any], Lazy]:
    metadata, cursor, num_tensors = _header(path)
    return metadata, _tensors(cursor, num_tensors, metadata)


def _header(path: Path) -> tuple[dict[str, Any], _Cursor, int]:
    """The metadata, and the cursor before the descriptions of so many tensors."""
    cursor = _Cursor(map_file(path), path)
    if bytes(cursor.take(4, "the magic number")) != b"GGUF":
        raise CheckpointError("not a GGUF file", where=path, expected="GGUF as its first four bytes")
    version = cursor.number("<I", "the version")
    if version not in (2, 3):
        if version & 0xFFFF == 0 and version:
            raise UnsupportedError(
                "a big-endian GGUF file", where=path, remedy="convert it with llama.cpp's gguf_convert_endian.py"
            )
        raise UnsupportedError(
            f"GGUF version {version}",
            where=path,
            expected="2 or 3",
            remedy="convert the model again with a current llama.cpp",
        )
    num_tensors = cursor.count("tensors", at_least=24)
    num_pairs = cursor.count("metadata pairs", at_least=13)
    metadata: dict[str, Any] = {}
    for _ in range(num_pairs):
        key = cursor.name("a metadata key")
        if key in metadata:
            raise CheckpointError(f"metadata key {key} is there twice", where=path)
        metadata[key] = cursor.value(cursor.number("<I", f"the type of {key}"), key)
    return metadata, cursor, num_tensors


def _tensors(cursor: _Cursor, count: int, metadata: dict[str, Any]) -> Lazy:
    """The tensor descriptions, checked: within the file, aligned, apart from each other."""
    where = cursor.where
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise CheckpointError("general.alignment must be a power of two", where=where, received=repr(alignment)[:80])
    described: dict[str, tuple[str, tuple[int, ...], int]] = {}
    for _ in range(count):
        name = cursor.name("a tensor's name")
        if name in described:
            raise CheckpointError(f"tensor {name} is there twice", where=where)
        described[name] = cursor.tensor(name)
    data = cursor.rest_after_padding(alignment)
    make: dict[str, Callable[[], Array]] = {}
    end, before = 0, "the header"
    for name, (dtype, shape, start) in sorted(described.items(), key=lambda item: item[1][2]):
        stop = start + array_bytes(dtype, shape)
        if start % alignment:
            raise CheckpointError(
                f"tensor {name} is not aligned",
                where=where,
                expected=f"an offset in steps of {alignment}",
                received=start,
            )
        if start < end:
            raise CheckpointError(
                f"tensor {name} overlaps {before}", where=where, remedy="the file is damaged; download it again"
            )
        if stop > len(data):
            raise CheckpointError(
                f"tensor {name} lies beyond the end of the file",
                where=where,
                expected=f"at least {stop} bytes of tensors",
                received=len(data),
                remedy="the download is incomplete; fetch the file again",
            )
        make[name] = partial(Array.from_buffer, dtype, shape, data[start:stop])
        end, before = stop, name
    return Lazy(make)


class _Cursor:
    """A place in the file that moves forward, and never past the end."""

    def __init__(self, buffer: memoryview, where: Path) -> None:
        self.buffer, self.where, self.at = buffer, where, 0

    @property
    def left(self) -> int:
        return len(self.buffer) - self.at

    def _truncated(self, what: str, wanted: int) -> CheckpointError:
        remedy = "the file is truncated or damaged; download it again"
        return CheckpointError(
            f"{what} runs past the end of the file",
            where=self.where,
            expected=f"{wanted} bytes",
            received=self.left,
            remedy=remedy,
        )

    def take(self, size: int, what: str) -> memoryview:
        if size > self.left:
            raise self._truncated(what, size)
        self.at += size
        return self.buffer[self.at - size : self.at]

    def number(self, form: str, what: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def count(self, what: str, at_least: int) -> int:
        """How many there are of something that takes at least so many bytes each."""
        count = self.number("<Q", f"the number of {what}")
        if count * at_least > self.left:
            raise self._truncated(f"the list of {count} {what}", count * at_least)
        return count

    def string(self, what: str) -> str:
        length = self.number("<Q", f"the length of {what}")
        try:
            return str(self.take(length, what), "utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(
                f"{what} is not UTF-8", where=self.where, remedy="the file is damaged; download it again"
            ) from None

    def name(self, what: str) -> str:
        """A string that can be shown: a name with control characters would write to the reader's terminal."""
        name = self.string(what)
        if not name.isprintable():
            raise CheckpointError(f"{what} has unprintable characters", where=self.where, received=repr(name)[:80])
        return name

    def strings(self, count: int, what: str) -> list[str]:
        """Consecutive strings: a vocabulary has 100,000, hence the bare loop."""
        length_at, mapped, at, end = struct.Struct("<Q").unpack_from, self.buffer.obj, self.at, len(self.buffer)
        assert isinstance(mapped, mmap.mmap)  # its slices are bytes, twice as fast to decode as a memoryview's
        made: list[str] = []
        add: Callable[[str], None] = made.append
        try:
            for _ in range(count):
                start = at + 8
                at = start + length_at(mapped, at)[0]
                if at > end:
                    raise self._truncated(f"string {len(made)} of {what}", at - start)
                add(mapped[start:at].decode())
        except struct.error:
            raise self._truncated(f"string {len(made)} of {what}", 8) from None
        except UnicodeDecodeError:
            raise CheckpointError(f"string {len(made)} of {what} is not UTF-8", where=self.where) from None
        self.at = at
        return made

    def value(self, kind: int, key: str) -> Any:
        """A metadata value of the numbered type."""
        if kind in NUMBERS:
            return self.number(NUMBERS[kind], key)
        if kind == BOOL:
            return bool(self._bools(1, key)[0])
        if kind == STRING:
            return self.string(key)
        if kind != ARRAY:
            raise CheckpointError(
                f"{key} is of unknown type {kind}", where=self.where, remedy="the file is damaged, or of a newer format"
            )
        kind = self.number("<I", f"the type of {key}")
        if kind == ARRAY:
            raise UnsupportedError(f"{key} is an array of arrays", where=self.where)
        if kind == STRING:
            return self.strings(self.count(f"strings of {key}", at_least=8), key)
        if kind == BOOL:
            return self._bools(self.count(f"values of {key}", at_least=1), key)
        if kind not in NUMBERS:
            raise CheckpointError(f"{key} is an array of unknown type {kind}", where=self.where)
        dtype = np.dtype(NUMBERS[kind])
        count = self.count(f"values of {key}", at_least=dtype.itemsize)
        return np.frombuffer(self.take(count * dtype.itemsize, key), dtype).copy()  # aligned, and apart from the map

    def _bools(self, count: int, key: str) -> np.ndarray:
        values = np.frombuffer(self.take(count, key), np.uint8)
        if (values > 1).any():
            raise CheckpointError(f"{key} is neither true nor false", where=self.where, received=int(values.max()))
        return values.astype(bool)

    def tensor(self, name: str) -> tuple[str, tuple[int, ...], int]:
        """One description after its name: dtype, shape, offset into the data."""
        num_dims = self.number("<I", f"the shape of {name}")
        if not 0 < num_dims <= MAX_DIMS:
            raise CheckpointError(
                f"tensor {name} has a number of dimensions out of range",
                where=self.where,
                expected=f"1 to {MAX_DIMS}",
                received=num_dims,
            )
        sizes = struct.unpack(f"<{num_dims}Q", self.take(8 * num_dims, f"the shape of {name}"))
        kind = self.number("<I", f"the type of {name}")
        offset = self.number("<Q", f"the offset of {name}")
        if 0 in sizes:
            raise CheckpointError(f"tensor {name} is empty", where=self.where, received=list(reversed(sizes)))
        if kind not in TYPES:
            raise UnsupportedError(
                f"tensor {name} is of type {UNREAD.get(kind, kind)}",
                where=self.where,
                expected=", ".join(TYPES.values()),
                remedy="take another quantization of the model, such as Q4_K_M or Q8_0",
            )
        dtype = TYPES[kind]
        if dtype in BLOCKS and sizes[0] % BLOCKS[dtype][0]:
            raise CheckpointError(
                f"tensor {name} has rows of {sizes[0]}, not whole blocks",
                where=self.where,
                expected=f"steps of {BLOCKS[dtype][0]}",
            )
        return dtype, sizes[::-1], offset

    def rest_after_padding(self, alignment: int) -> memoryview:
        return self.buffer[-(-self.at // alignment) * alignment :]
