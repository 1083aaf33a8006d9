"""An adapter's folder opened as a model: the base that it names, each weight with its update folded in when it is asked
for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import CheckpointError, ModelNotFoundError
from pellucid.base.files import file_sha256
from pellucid.base.notice import notice
from pellucid.checkpoint.adapters.adapter import (
    CONFIG,
    TENSORS,
    TORCH_BIN,
    Update,
    read_adapter,
    read_base_name,
    tensors_of,
)
from pellucid.checkpoint.files.lazy import Lazy
from pellucid.checkpoint.find import NAMES
from pellucid.checkpoint.open import Checkpoint, open_checkpoint
from pellucid.checkpoint.save import save_checkpoint
from pellucid.checkpoint.sources.hub import USUAL, Access
from pellucid.checkpoint.sources.resolve import resolve
from pellucid.checkpoint.weights import FLOATS, Weights
from pellucid.quant import convert, dequantize
from pellucid.text.load import TOKENIZER_FILES

SAMPLE = 4096  # bytes of each tensor that a fingerprint reads


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter, and no weights of a whole model."""
    return (path / CONFIG).is_file() and not any((path / name).is_file() for name in NAMES)


def base_of(folder: Path, *, offline: bool = False, weights: bool = True, access: Access = USUAL) -> Path:
    """Where the model lies that an adapter adapts. ``adapter_config.json`` names it by an absolute path, one from the
    adapter's folder, one from the current folder (PEFT's way), a catalogue alias or a hub id; ``access``: how to go
    to the hub for it.

    Raises: ModelNotFoundError where it names none, or none that there is.
    """
    name, revision = read_base_name(folder)
    if name is None:
        raise ModelNotFoundError(
            "the adapter does not say which model it adapts",
            where=folder / CONFIG,
            expected="base_model_name_or_path",
            remedy="write the model's name there; in Python, load_adapter(model, folder) takes any model",
        )
    beside, pinned = (
        folder / name,
        f"{name}@{revision}" if revision and "/" in name and not Path(name).exists() else name,
    )
    try:
        path = (
            beside
            if beside.exists()
            else resolve(pinned, offline=offline, weights=weights, access=replace(access, subfolder=""))
        )
    except ModelNotFoundError as error:
        remedy = f"write into {folder / CONFIG} where it lies now"
        raise ModelNotFoundError(
            f"the model that the adapter adapts is not to be had: {error}", where=folder, remedy=remedy
        ) from None
    return path


def root_of(folder: Path, *, offline: bool = False, weights: bool = True, access: Access = USUAL) -> Path:
    """The whole model beneath an adapter, or beneath adapters on each other. Raises: as ``base_of``; CheckpointError
    where they go round in a circle.
    """
    path, seen = folder, [folder]
    while is_adapter(path):
        path = base_of(path, offline=offline, weights=weights, access=access)
        if any(path.resolve() == one.resolve() for one in seen):
            raise CheckpointError("adapters that are each other's base", where=folder / CONFIG, received=path)
        seen.append(path)
    return path


def open_adapted(folder: Path, *, offline: bool = False, access: Access = USUAL) -> Checkpoint:
    """Base and adapter as one checkpoint. Weights in blocks become float32.

    Raises: as ``open_checkpoint`` and ``read_adapter``; CheckpointError where the base is not the model that was
    adapted.
    """
    root_of(folder, offline=offline, access=access)  # no circle
    path = base_of(folder, offline=offline, access=access)
    base = open_adapted(path, offline=offline, access=access) if is_adapter(path) else open_checkpoint(path)
    adapter = read_adapter(folder, base.config)
    if adapter.base_sha256 is not None and adapter.base_sha256 != fingerprint_of(base):
        raise CheckpointError(
            "the base is not the model that was adapted: its weights are others",
            where=base.path,
            expected=f"fingerprint {adapter.base_sha256[:12]}…",
            remedy=f"name the right one in {folder / CONFIG}; "
            "in Python, load_adapter(model, folder) takes any model of the same shapes",
        )
    tensors = tensors_of(folder)
    own_tokenizer = any((folder / name).is_file() for name in TOKENIZER_FILES)
    return replace(
        base,
        path=folder,
        weights=MergedWeights(base.weights, adapter.updates, adapter.saved),
        files={**base.files, tensors: tensors.stat().st_size},
        tokenizer_path=folder if own_tokenizer else base.tokenizer_path,
    )


def save_merged(merged: Checkpoint, folder: Path, dtype: str | None = None) -> None:
    """The whole model that base and adapter make, in one dtype: ``dtype``, or, of what was in blocks, float32, in which
    it was merged.
    """
    if dtype is None and any(array.is_blocks for array in merged.stored.values()):
        dtype = "float32"
    if merged.quantization is not None:
        notice(f"{folder}: weights that were {merged.quantization} are written as {dtype or 'floats'}, not quantized")
    save_checkpoint(folder, merged.config, merged.weights, generation_config=merged.generation_config, dtype=dtype)


class MergedWeights(Weights):
    """A model's weights with W + scale · B A in place of those that are adapted, each made when it is asked for; and
    with those that an adapter has whole.
    """

    def __init__(self, base: Weights, updates: Mapping[str, Update], saved: Mapping[str, Array]) -> None:
        self._base, self._updates, self._saved = base, updates, saved
        self.config, self.stored_names = base.config, base.stored_names
        Lazy.__init__(self, {})

    def __getitem__(self, name: str) -> Array:
        if name in self._saved:
            before = self._base[name].dtype
            return convert(self._saved[name], before if before in FLOATS else "float32")
        return merged(
            self._base[name], self._updates.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        )

    def __contains__(self, name: object) -> bool:
        return name in self._base

    def __iter__(self):
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)


def merged(weight: Array, update: Update | None) -> Array:
    """W + scale · B A (its rows in the lengths of a DoRA), summed in float32; in W's dtype, or float32 for a W in
    blocks.

    What is not adapted leaves its blocks as well: an executor may compute with those in fewer bits than the adapter was
    trained in, and the merged model, written as float32, would then say something else than the adapter does.
    """
    if update is None:
        return convert(weight, "float32") if weight.is_blocks else weight
    whole = dequantize(weight) + np.float32(update.scale) * (dequantize(update.b) @ dequantize(update.a))
    if update.magnitude is not None:
        whole *= (dequantize(update.magnitude) / np.linalg.norm(whole, axis=1))[:, None]
    return convert(Array.from_numpy(whole), weight.dtype if weight.dtype in FLOATS else "float32")


def fingerprint_of(checkpoint: Checkpoint) -> str:
    """Of a model in its files; of one that adapters make, of all of them together."""
    own = fingerprint(checkpoint.stored)
    if not isinstance(checkpoint.weights, MergedWeights):
        return own
    adapters = [path for path in checkpoint.files if path.name in (TENSORS, TORCH_BIN)]
    return hashlib.sha256(" ".join([own, *map(file_sha256, adapters)]).encode()).hexdigest()


def fingerprint(stored: Mapping[str, Array]) -> str:
    """A hash of names, dtypes, shapes and the first bytes of every tensor in a model's files: enough to tell two
    trainings apart.
    """
    digest = hashlib.sha256()
    for name in sorted(stored):
        for array in stored[name].sources:
            flat = array.data.reshape(-1)
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(flat[: SAMPLE // flat.itemsize]).tobytes())
    return digest.hexdigest()
