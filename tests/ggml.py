"""ggml itself, as llama-cpp-python brings it: its quantizer, called through ctypes. ``make bench-peers`` builds it."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from pellucid.base.array import row_bytes

PEERS = Path(__file__).parents[1] / ".venv-llamacpp"
PYTHON = PEERS / "bin" / "python"
NEEDS = pytest.mark.skipif(not PYTHON.exists(), reason="llama.cpp is not here; `make bench-peers` builds it")


@cache
def _library() -> ctypes.CDLL:
    (path,) = PEERS.glob("lib/python3*/site-packages/llama_cpp/lib/libggml-base.so")
    library = ctypes.CDLL(str(path))
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    return library


def quantize(values: np.ndarray, dtype: str, importance: np.ndarray | None = None) -> np.ndarray:
    """Rows (R, C) of float32 as ggml stores them, (R, bytes)."""
    kind, library = int(GGMLQuantizationType[dtype.upper()]), _library()
    values = np.ascontiguousarray(values, np.float32)
    importance = None if importance is None else np.ascontiguousarray(importance, np.float32)
    out = np.zeros((len(values), row_bytes(dtype, values.shape[1])), np.uint8)
    library.ggml_quantize_init(kind)
    library.ggml_quantize_chunk(
        kind,
        values.ctypes.data,
        out.ctypes.data,
        0,
        *values.shape,
        None if importance is None else importance.ctypes.data,
    )
    return out
