"""A checkpoint → one GGUF file that llama.cpp, and we, read: quantized on the way, then opened again and compared.

One tensor's rows are in memory at a time, some megabytes of them: a model larger than memory is written as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pellucid.base.array import BLOCKS, Array
from pellucid.base.errors import CheckpointError, ConfigError, WeightsError
from pellucid.base.files import sync_folder
from pellucid.checkpoint.files.gguf_write import Tensor, write_gguf
from pellucid.checkpoint.files.release import release
from pellucid.checkpoint.files.staging import Staging
from pellucid.checkpoint.open import Checkpoint, open_checkpoint
from pellucid.config import ModelConfig, NormConfig, weight_shapes
from pellucid.families import FAMILIES
from pellucid.families.translation.gguf import OneRow
from pellucid.families.translation.gguf_mixture import MIXTURES, Facts, formats
from pellucid.families.translation.gguf_out import Outline, difference, outline, shape_of
from pellucid.families.translation.rules import (
    DropRows,
    Match,
    PermuteRope,
    Split,
    SplitHeads,
    Transpose,
    Unstack,
)
from pellucid.quant import convert, dequantize, quantize

QUANTIZATION_VERSION = 2
ROWS = 2**20  # elements that are converted at a time, about
# The largest ‖w − ŵ‖ / ‖w‖ of a tensor that its format explains; a wrong tensor's is about √2.
ERROR = {
    "float32": 0.0, "bfloat16": 2**-8, "float16": 2**-10, "q8_0": 0.02, "q6_k": 0.06, "q5_k": 0.12, "q5_0": 0.12,
    "q5_1": 0.12, "q4_k": 0.25, "q4_0": 0.25, "q4_1": 0.25, "q3_k": 0.45, "q2_k": 0.7,
}  # fmt: skip
COMPUTED = 1e-6  # of what is computed on the way, in float32
MOVES = (Transpose, DropRows, Split, SplitHeads, Unstack, PermuteRope, OneRow)
TINY = 1e-7  # a magnitude below which float16 scales are too coarse for any of it to hold
# generation_config.json → general.sampling; what else it has, llama.cpp has no key for.
SAMPLING = {
    "temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "repetition_penalty": "penalty_repeat",
}  # fmt: skip

Importance = Mapping[str, np.ndarray]  # their tensor's name → mean squared input of each column, (C,) or (experts, C)


@dataclass(frozen=True)
class Written:
    """What was written: bytes by format, and the largest relative error of a tensor in each."""

    path: Path
    nbytes: int
    formats: Mapping[str, int]
    errors: Mapping[str, tuple[float, str]]


def save_gguf(
    path: str | Path,
    checkpoint: Checkpoint,
    mixture: str,
    *,
    tokenizer: Mapping[str, Any] | None = None,
    name: str | None = None,
    importance: Importance | None = None,
    about: Mapping[str, Any] | None = None,
    threads: int = 1,
    wrote: Callable[[str, str, int, int], None] = lambda stage, name, done, total: None,
) -> Written:
    """Write the model as ``path``, by a mixture of formats (``MIXTURES``), and compare what is then read from it.

    ``tokenizer``: its metadata (``text.gguf_out``). ``importance``: how much each column of a tensor counts;
    ``about``: metadata that say where it is from. ``wrote`` hears of the work: stage, tensor, bytes done, bytes in all.
    The file takes its name only after it was compared; what was there under the name stays until then.

    Raises: UnsupportedError naming what llama.cpp cannot say of the model; WeightsError where what is read back is not
    the model; CheckpointError for a full disk.
    """
    path = Path(path)
    plan = plan_of(checkpoint.config, mixture, importance=importance is not None)
    if mixture == "q2_k_s" and importance is None:
        raise CheckpointError("q2_k_s needs an importance matrix", remedy="give a text: --imatrix TEXT")
    metadata: dict[str, Any] = {
        "general.architecture": plan.outline.architecture,
        "general.type": "model",
        "general.name": name or checkpoint.path.stem,
        "general.file_type": MIXTURES[mixture][1],
        "general.quantization_version": QUANTIZATION_VERSION,
        **_sampling(checkpoint.generation_config),
        **plan.outline.metadata,
        **(tokenizer or _no_tokenizer(checkpoint.config)),
        **(about or {}),
    }
    if importance is not None:
        _check(importance, plan)
    tensors = [
        Tensor(entry.name, entry.dtype, entry.shape, lambda entry=entry: _parts(entry, checkpoint, importance, threads))
        for entry in plan.entries
    ]
    total, done = sum(tensor.nbytes for tensor in tensors), 0

    def count(name: str, nbytes: int) -> None:
        nonlocal done
        done += nbytes
        wrote("writing", name, done, total)

    with Staging(path.parent) as staging:
        file = staging.open()
        write_gguf(file, metadata, tensors, count)
        file.flush()
        os.fsync(file.fileno())
        errors = _compared(file, path, checkpoint, metadata, plan, wrote)
        staging.commit([(file, path.name)])
    sync_folder(path.parent)
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    return Written(path, path.stat().st_size, sizes, errors)


@dataclass(frozen=True)
class Entry:
    """One tensor of the file: what it is made of, or, for a setting, its values."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    match: Match | None
    values: np.ndarray | None = None


@dataclass(frozen=True)
class Plan:
    outline: Outline
    entries: tuple[Entry, ...]


def plan_of(config: ModelConfig, mixture: str, importance: bool = False) -> Plan:
    """What a file of the model would hold. Raises: UnsupportedError; ConfigError for a mixture there is not."""
    if mixture not in MIXTURES:
        raise ConfigError(f"there is no mixture {mixture!r}", expected=", ".join(MIXTURES))
    outlined, ours = outline(config, FAMILIES), weight_shapes(config)
    shapes = {match.theirs: shape_of(match, [ours[name] for name in match.ours]) for match in outlined.matches}
    facts = Facts.of(outlined.architecture, outlined.metadata, shapes, importance)
    chosen = formats(mixture, shapes, facts)
    settings = (Entry(name, "float32", values.shape, None, values) for name, values in outlined.tensors.items())
    matched = (Entry(match.theirs, chosen[match.theirs], shapes[match.theirs], match) for match in outlined.matches)
    return Plan(outlined, (*settings, *matched))


def _no_tokenizer(config: ModelConfig) -> dict[str, Any]:
    ids = {"bos": config.bos_token_id, "eos": next(iter(config.eos_token_ids), None), "padding": config.pad_token_id}
    named = {f"tokenizer.ggml.{name}_token_id": i for name, i in ids.items() if i is not None and i >= 0}
    return {"tokenizer.ggml.model": "no_vocab", **named}


def _sampling(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling that the model's makers recommend."""
    numbers = {key: value for key in SAMPLING if isinstance(value := generation.get(key), (int, float))}
    return {
        f"general.sampling.{SAMPLING[key]}": int(value) if key == "top_k" else float(value)
        for key, value in numbers.items()
        if not isinstance(value, bool)
    }


def _check(importance: Importance, plan: Plan) -> None:
    for entry in plan.entries:
        columns = importance.get(entry.name)
        if columns is not None and columns.shape not in ((entry.shape[-1],), (entry.shape[0], entry.shape[-1])):
            raise CheckpointError(
                f"the importance matrix is of another model: {entry.name}",
                expected=f"{entry.shape[-1]} columns",
                received=list(columns.shape),
            )


def _parts(entry: Entry, checkpoint: Checkpoint, importance: Importance | None, threads: int) -> Iterator[Array]:
    """The tensor's rows in its format, some at a time; a stack of experts one expert at a time."""
    if entry.match is None:
        assert entry.values is not None
        yield Array.from_numpy(entry.values)
        return
    columns = None if importance is None else importance.get(entry.name)
    for number, array in enumerate(_whole(entry.match, checkpoint.weights)):
        own = columns[number] if columns is not None and columns.ndim == 2 else columns
        for part in _row_parts(array):
            yield _converted(part, entry, own, threads)
        release(array)


def _whole(match: Match, weights: Mapping[str, Array]) -> Iterator[Array]:
    """Their tensor in the dtype that it is stored in; the experts of a stack one by one."""
    if len(match.rule.transforms) == 1 and isinstance(match.rule.transforms[0], Unstack):
        for name in match.ours:
            yield weights[name]
    else:
        yield match.rule.inverse([weights[name] for name in match.ours], match.place)


def _row_parts(array: Array) -> Iterator[Array]:
    if len(array.shape) < 2:
        yield array
        return
    step = max(1, ROWS // max(1, int(np.prod(array.shape[1:]))))
    for start in range(0, array.shape[0], step):
        yield array.with_data(array.data[start : start + step])


def _converted(part: Array, entry: Entry, columns: np.ndarray | None, threads: int) -> Array:
    if part.dtype == entry.dtype:
        return part
    try:
        if entry.dtype in BLOCKS:
            return quantize(dequantize(part), entry.dtype, columns, threads)
        made = convert(part, entry.dtype)
    except CheckpointError as error:
        error.args = (f"{entry.name}: {error}",)
        raise
    if entry.dtype == "float16" and not np.isfinite(made.data).all():
        raise CheckpointError(f"{entry.name} exceeds float16", remedy="write bf16 instead")
    return made


def _compared(
    file: BinaryIO,
    path: Path,
    checkpoint: Checkpoint,
    metadata: Mapping[str, Any],
    plan: Plan,
    wrote: Callable[[str, str, int, int], None],
) -> dict[str, tuple[float, str]]:
    """What the file holds when it is opened, beside what was to be written; the largest relative error by format.

    Raises: WeightsError where they part.
    """
    again = open_checkpoint(file.name)
    if again.metadata.keys() != metadata.keys() or not all(
        _same(metadata[key], again.metadata[key]) for key in metadata
    ):
        raise WeightsError("the metadata read back are not those written", where=path)
    if lost := difference(checkpoint.config, again.config):
        raise WeightsError(f"the description read back is another: {lost}", where=path)
    stored = {name: entry.dtype for entry in plan.entries if entry.match for name in entry.match.ours}
    computed = {name for entry in plan.entries if entry.match and computes(entry.match) for name in entry.match.ours}
    shapes = weight_shapes(checkpoint.config)
    total, done = sum(int(np.prod(shape)) for shape in shapes.values()), 0
    errors: dict[str, tuple[float, str]] = {}
    for name in shapes:
        offset = _offset(checkpoint.config, name) - _offset(again.config, name)
        ours, theirs = checkpoint.weights[name], again.weights[name]
        error = relative_error(ours, theirs, offset)
        limit = max(ERROR[stored[name]], COMPUTED if name in computed else 0.0)
        if not error <= limit:
            raise WeightsError(
                f"{name} read back is not what was written",
                where=path,
                expected=f"an error of at most {limit:g} of its size in {stored[name]}",
                received=f"{error:g}",
            )
        errors[stored[name]] = max(errors.get(stored[name], (0.0, "")), (error, name))
        release(ours)
        release(theirs)
        done += int(np.prod(shapes[name]))
        wrote("comparing", name, done, total)
    return errors


def computes(match: Match) -> bool:
    """Whether their tensor holds other numbers than ours (γ for γ − 1, A for log A), and not the same ones moved."""
    return any(not isinstance(transform, MOVES) for transform in match.rule.transforms)


def relative_error(ours: Array, theirs: Array, offset: float = 0.0) -> float:
    """‖w + offset − ŵ‖ / ‖w + offset‖, summed in float64, some rows at a time."""
    lost = whole = 0.0
    for a, b in zip(_row_parts(ours), _row_parts(theirs), strict=True):
        values = dequantize(a).astype(np.float64) + offset
        lost += float(np.square(values - dequantize(b)).sum())
        whole += float(np.square(values).sum())
    smallest = TINY**2 * max(1, int(np.prod(ours.shape)))
    return 0.0 if lost == 0 or (whole < smallest and lost <= whole) else float(np.sqrt(lost / max(whole, 1e-300)))


def _offset(config: ModelConfig, name: str) -> float:
    """What is added to a norm's weight to make γ."""
    norm: NormConfig | None = None
    if name == "final_norm.weight":
        norm = config.final_norm
    elif name.startswith("layers.") and name.endswith("norm.weight"):
        _, number, *rest = name.removesuffix(".weight").split(".")
        layer = config.layers[int(number)]
        norm = layer.norms.get(rest[0]) if len(rest) == 1 else getattr(layer.mixer, "qk_norm", None)
    return norm.offset if norm else 0.0


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float):
        return float(np.float32(ours)) == theirs
    if isinstance(ours, (list, tuple, np.ndarray)):
        if len(ours) != len(theirs):
            return False
        if len(ours) and not isinstance(ours[0], str):
            return bool(np.array_equal(np.asarray(ours, theirs.dtype), theirs))
        return list(ours) == list(theirs)
    return ours == theirs
