"""``pytorch_model.bin``, read: torch's pickle of named tensors, through torch's restricted unpickler.

The one reader here that needs torch. A pickle can hold a program; ``weights_only=True`` builds tensors and refuses
everything else before any of it runs, and so do we.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pellucid.base.array import STORAGE, Array
from pellucid.base.errors import CheckpointError, UnsupportedError

ZIP = b"PK\x03\x04"  # torch ≥ 1.6 writes a zip archive, which can be mapped; before, a bare pickle

REPEATED = 2**20  # bytes that a tensor may come to by strides of 0, as some buffers do


def open_torch_bin(path: str | Path) -> dict[str, Array]:
    """Name → Array, views of the mapped file where it is a zip archive.

    Raises: CheckpointError for a damaged file, or one that wants to run code; UnsupportedError for what is no plain
    tensor.
    """
    import pickle

    import torch

    path = Path(path)
    with open(path, "rb") as file:
        is_zip = file.read(4) == ZIP
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError:
        raise CheckpointError(
            "the pickle is damaged, or wants to run code; nothing of it was run",
            where=path,
            remedy="take the model's safetensors; or, if you trust its source, "
            "convert it to safetensors on a machine that holds no secrets",
        ) from None
    except Exception as error:  # a damaged file fails in many ways within torch
        reason = str(error).split("\n", 1)[0][:200]
        raise CheckpointError(
            f"torch cannot read the file: {reason}", where=path, remedy="download it again"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise UnsupportedError(
            "the file holds something other than named tensors",
            where=path,
            remedy="save model.state_dict() alone, as safetensors",
        )
    return {name: _array(name, tensor, path) for name, tensor in state.items()}


def _array(name: str, tensor: Any, where: Path) -> Array:
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in STORAGE or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise UnsupportedError(
            f"{name} is a {tensor.layout} tensor of {dtype} on {tensor.device}", where=where, expected="a plain one"
        )
    tensor = tensor.detach()
    held = tensor.untyped_storage().nbytes()
    if tensor.nbytes > max(held, REPEATED):  # strides of 0: terabytes out of four bytes
        raise CheckpointError(
            f"{name} repeats what little it holds",
            where=where,
            expected=f"{tensor.nbytes} bytes for {list(tensor.shape)}",
            received=f"{held} bytes",
            remedy="save the model's state_dict with its tensors contiguous, or take its safetensors",
        )
    if dtype.startswith("float8"):
        tensor = tensor.view(torch.uint8)
    data: np.ndarray = tensor.view(torch.int16).numpy().view(np.uint16) if dtype == "bfloat16" else tensor.numpy()
    return Array(dtype, tuple(tensor.shape), data)
