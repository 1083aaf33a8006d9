"""Which files make up a checkpoint: by name within a folder, by its first bytes for a single file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pellucid.base.errors import CheckpointError, ModelNotFoundError
from pellucid.checkpoint.files.distributed import INDEX as DISTRIBUTED
from pellucid.checkpoint.files.torch_bin import ZIP

Kind = Literal["safetensors", "distributed", "gguf", "llama2c", "torch"]

# In a folder, the first of these that is there holds the weights (transformers' order).
NAMES: dict[str, Kind] = {
    "model.safetensors": "safetensors",
    "model.safetensors.index.json": "safetensors",
    "pytorch_model.bin": "torch",
    "pytorch_model.bin.index.json": "torch",
}
INDEX = ".index.json"
FORMATS = "a folder with config.json and model.safetensors, a .gguf file, or a llama2.c .bin"


@dataclass(frozen=True)
class Location:
    """``weights`` is a single file of weights, the first part of several, or an index of several."""

    kind: Kind
    weights: Path

    @property
    def is_index(self) -> bool:
        return self.weights.name.endswith(INDEX)

    @property
    def config_file(self) -> Path:
        return self.weights.parent / "config.json"


def find(path: Path) -> Location:
    """The checkpoint at ``path``. Raises: ModelNotFoundError, or CheckpointError that says what is there instead."""
    if path.is_dir():
        return _in_folder(path)
    if not path.is_file():
        raise ModelNotFoundError("there is no such file or folder", where=path, expected=FORMATS)
    if path.name in NAMES:
        return Location(NAMES[path.name], path)
    if re.search(r"-\d{5}-of-\d{5}\.(safetensors|bin)$", path.name):
        raise CheckpointError(
            "this is one part of a checkpoint", where=path, remedy=f"name the folder instead: {path.parent}"
        )
    return Location(_kind(path), path)


def _in_folder(folder: Path) -> Location:
    for name, kind in NAMES.items():
        if (folder / name).is_file():
            return Location(kind, folder / name)
    ggufs = [
        path for path in sorted(folder.glob("*.gguf")) if not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", path.name)
    ]
    if len(ggufs) == 1:
        return Location("gguf", ggufs[0])
    if ggufs:
        raise CheckpointError(
            "the folder holds several models",
            where=folder,
            received=_some(ggufs),
            remedy=f"name one of them: {ggufs[0]}",
        )
    present = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if any(path.name == "adapter_config.json" for path in present):
        raise CheckpointError(
            "this is an adapter, not a whole model", where=folder, remedy="name the model that it adapts"
        )
    if (folder / DISTRIBUTED).is_file():
        return Location("distributed", folder / DISTRIBUTED)
    bins = [path for path in present if path.suffix == ".bin"]
    raise CheckpointError(
        "the folder holds no weights",
        where=folder,
        expected=" or ".join([*NAMES, "one .gguf file"]),
        received=_some(present) or "an empty folder",
        remedy=f"a llama2.c checkpoint is named by its file: {bins[0]}" if bins else None,
    )


def _kind(path: Path) -> Kind:
    with open(path, "rb") as file:
        first = file.read(9)
    if first[:4] == b"GGUF":
        return "gguf"
    if path.suffix == ".safetensors" or first[8:9] == b"{":
        return "safetensors"
    if first[:4] == ZIP or first[:1] == b"\x80":  # a pickle's first instruction names its protocol
        return "torch"
    if path.suffix == ".bin":
        return "llama2c"
    raise CheckpointError(
        "the file is no checkpoint that we know",
        where=path,
        expected=FORMATS,
        received=f"a file that begins with {first[:4]!r}",
    )


def _some(paths: list[Path], most: int = 6) -> str:
    return ", ".join(path.name for path in paths[:most]) + (", …" if len(paths) > most else "")
