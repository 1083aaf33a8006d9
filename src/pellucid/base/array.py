"""``Array``: a named dtype, a shape, and storage, without torch.

numpy has no bfloat16 and knows nothing of block-quantized weights, so an ``Array`` keeps the *logical* dtype and
shape beside a plain numpy view of the stored bits:

- plain dtypes: ``data`` has the logical shape; bfloat16 is stored as ``uint16``, floats of 8 bits as ``uint8``;
- block formats (GGML's ``q4_0`` …): the last axis is cut into blocks, and ``data`` is ``uint8`` of shape
  ``(*shape[:-1], bytes per row)``. Operations on whole rows (split, permute, concatenate) work on both alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pellucid.base.errors import CheckpointError

# Logical dtype -> numpy dtype of the stored bits.
STORAGE: dict[str, np.dtype] = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
    "uint64": np.dtype("<u8"),
    "bool": np.dtype("?"),
    "float8_e4m3fn": np.dtype("u1"),
    "float8_e5m2": np.dtype("u1"),
    "float8_e8m0fnu": np.dtype("u1"),
}

# Block format -> (elements in a block, bytes in a block). Source: ggml-common.h, block_q4_0 … block_nvfp4.
BLOCKS: dict[str, tuple[int, int]] = {
    "q4_0": (32, 18),
    "q4_1": (32, 20),
    "q5_0": (32, 22),
    "q5_1": (32, 24),
    "q8_0": (32, 34),
    "q2_k": (256, 84),
    "q3_k": (256, 110),
    "q4_k": (256, 144),
    "q5_k": (256, 176),
    "q6_k": (256, 210),
    "iq1_s": (256, 50),
    "iq1_m": (256, 56),
    "iq2_xxs": (256, 66),
    "iq2_xs": (256, 74),
    "iq2_s": (256, 82),
    "iq3_xxs": (256, 98),
    "iq3_s": (256, 110),
    "iq4_nl": (32, 18),
    "iq4_xs": (256, 136),
    "tq1_0": (256, 54),
    "tq2_0": (256, 66),
    "q1_0": (128, 18),
    "q2_0": (64, 18),
    "mxfp4": (32, 17),
    "nvfp4": (64, 36),
}


def row_bytes(dtype: str, length: int) -> int:
    """Bytes that one row of ``length`` elements takes in ``dtype``."""
    if dtype in STORAGE:
        return STORAGE[dtype].itemsize * length
    elements, size = BLOCKS[dtype]
    if length % elements:
        raise CheckpointError(
            f"rows of {dtype} come in blocks of {elements}", expected=f"a multiple of {elements}", received=length
        )
    return length // elements * size


def array_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes that an array of ``shape`` takes in ``dtype``, computed without overflow."""
    if not shape:
        return row_bytes(dtype, 1)
    return math.prod(shape[:-1]) * row_bytes(dtype, shape[-1])


@dataclass(frozen=True, eq=False)
class Array:
    """Named dtype, logical shape, stored bits (a numpy view; often of a memory-mapped file)."""

    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray

    @classmethod
    def from_buffer(cls, dtype: str, shape: tuple[int, ...], buffer: memoryview | bytes) -> Array:
        """A view of ``buffer``; copies only where the buffer is not aligned to the element.

        Raises: CheckpointError when the buffer's size is not what dtype and shape ask for.
        """
        size = array_bytes(dtype, shape)
        if len(buffer) != size:
            raise CheckpointError(
                f"an array of {dtype} {list(shape)} has the wrong size", expected=f"{size} bytes", received=len(buffer)
            )
        if dtype in BLOCKS:
            stored = np.frombuffer(buffer, np.uint8).reshape(*shape[:-1], row_bytes(dtype, shape[-1]))
        else:
            stored = np.frombuffer(buffer, STORAGE[dtype]).reshape(shape)
        return cls(dtype, tuple(shape), stored if stored.flags.aligned else stored.copy())

    @classmethod
    def from_numpy(cls, values: np.ndarray) -> Array:
        """Wrap a numpy array of a dtype that numpy can name."""
        name = values.dtype.name
        if name not in STORAGE:
            raise CheckpointError(f"dtype {name} cannot be stored", expected=sorted(STORAGE))
        return cls(name, values.shape, values.astype(STORAGE[name], copy=False))

    @property
    def is_blocks(self) -> bool:
        return self.dtype in BLOCKS

    @property
    def nbytes(self) -> int:
        return array_bytes(self.dtype, self.shape)

    @property
    def sources(self) -> tuple[Array, ...]:
        """The arrays of a file that this one is made of."""
        return (self,)

    @property
    def stored_as(self) -> str:
        """What a file calls it: its dtype, or how it is quantized."""
        return self.dtype

    @property
    def by_outputs(self) -> bool:
        """Whether a matrix's rows are known to be outputs, whichever way its family stores them: those of blocks are,
        for blocks lie along the inputs.
        """
        return self.is_blocks

    def with_data(self, data: np.ndarray) -> Array:
        """The same dtype over other stored bits; the shape follows from them."""
        last = data.shape[-1:]
        if self.is_blocks:
            elements, size = BLOCKS[self.dtype]
            last = (data.shape[-1] // size * elements,)
        return Array(self.dtype, (*data.shape[:-1], *last), data)

    def __repr__(self) -> str:
        return f"Array({self.dtype}, {list(self.shape)})"
