"""A checkpoint → a quantized folder that transformers, vLLM, and we, read: compressed-tensors, weights alone.

    int4    pack-quantized, a scale for 32 inputs of an output: 4.5 bits a weight. Groups of 128, as others write them,
            save 0.4 bits and more than double what is lost (KL of Gemma 3 270M 0.71 instead of 0.29)
    int8    pack-quantized, a scale an output
    fp8     float-quantized (E4M3), a scale an output

Matrices of the layers are quantized; tables, the head, norms, convolutions, routers and rates stay floats. One matrix
is in memory at a time. What is written is opened again and compared before the folder has it under its names.

Source: compressed-tensors, compressors/pack_quantized, compressors/naive_quantized; quantization/quant_args.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError, WeightsError
from pellucid.base.notice import notice
from pellucid.checkpoint.files.release import release
from pellucid.checkpoint.files.safetensors_write import MAX_SHARD_BYTES, stage_safetensors
from pellucid.checkpoint.files.staging import Staging
from pellucid.checkpoint.gguf_out import Written, relative_error
from pellucid.checkpoint.open import Checkpoint, open_checkpoint
from pellucid.checkpoint.save import description
from pellucid.config import ModelConfig, weight_shapes
from pellucid.families import family_of
from pellucid.families.translation.gguf_out import difference, shape_of
from pellucid.families.translation.rules import Match, Transpose, matches, some
from pellucid.quant import convert, dequantize
from pellucid.quant.affine import Affine
from pellucid.quant.bfloat16 import to_bfloat16
from pellucid.quant.integers import to_stream
from pellucid.quant.scaled import scaled
from pellucid.quant.symmetric import floats, integers

BITS = {"int4": 4, "int8": 8, "fp8": 8}
GROUP = 32  # inputs with one scale, int4; our own blocks of four bits hold the same numbers
ROWS = 2**18  # weights that are searched at a time
ERROR = {"int4": 0.5, "int8": 0.3, "fp8": 0.1}  # of a matrix's size, at most; a wrong matrix's is about √2
# What is small and steers exponents or gates: its rounding is felt everywhere, its bytes nowhere.
KEPT = ("beta_proj", "decay_proj", "decay_a_proj", "decay_b_proj", "dt_proj", "dt_low_proj", "gate_a_proj",
        "gate_b_proj")  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """``quantized``: their names of modules, and of each what it is made of. ``ignored``: modules that stay floats."""

    kind: str
    dtype: str
    group: int | None
    every: tuple[Match, ...]
    shapes: Mapping[str, tuple[int, ...]]
    quantized: Mapping[str, Match]
    ignored: tuple[str, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """``quantization_config``."""
        weights = {
            "num_bits": BITS[self.kind],
            "type": "float" if self.kind == "fp8" else "int",
            "symmetric": True,
            "strategy": "group" if self.group else "channel",
            "group_size": self.group,
            "dynamic": False,
        }
        return {
            "quant_method": "compressed-tensors",
            "format": "float-quantized" if self.kind == "fp8" else "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
            "ignore": list(self.ignored),
        }


def plan_of(config: ModelConfig, kind: str, dtype: str) -> Plan:
    """What is quantized. Raises: UnsupportedError for matrices that this layout has no place for."""
    family, ours = family_of(config.model_type, "config.json"), weight_shapes(config)
    every = tuple(matches(config, family.WEIGHTS))
    shapes = {match.theirs: shape_of(match, [ours[name] for name in match.ours]) for match in every}
    chosen = {match.theirs: match for match in every if _is_projection(match)}
    for name, match in chosen.items():
        if len(shapes[name]) != 2 or any(isinstance(step, Transpose) for step in match.rule.transforms):
            raise UnsupportedError(
                f"{name}: {config.model_type} keeps its matrices lying or stacked, which compressed-tensors cannot say",
                expected="matrices of outputs × inputs",
                remedy="write a GGUF file instead: OUT.gguf --quantize q4_k_m",
            )
    group = GROUP if kind == "int4" else None
    if odd := [name for name in chosen if shapes[name][1] % (group or 1)]:
        notice(f"{some(odd, 2)}: rows that are no whole groups of {group} inputs stay {dtype}")
        chosen = {name: match for name, match in chosen.items() if name not in odd}
    if not chosen:
        raise UnsupportedError(f"no matrix of the model has whole groups of {group} inputs", remedy="--quantize int8")
    head = next((rule.theirs for rule in family.WEIGHTS if rule.ours == "lm_head.weight"), "lm_head.weight")
    rest = [name for name, shape in shapes.items() if len(shape) == 2 and name not in chosen]
    ignored = dict.fromkeys(["lm_head", *(name.removesuffix(".weight") for name in (head, *rest))])
    quantized = {name.removesuffix(".weight"): match for name, match in chosen.items()}
    return Plan(kind, dtype, group, every, shapes, quantized, tuple(ignored))


def _is_projection(match: Match) -> bool:
    parts = [name.split(".") for name in match.ours]
    return all(
        name[0] == "layers" and name[-1] == "weight" and name[-2].endswith("_proj") and name[-2] not in KEPT
        for name in parts
    )


def save_quantized(
    folder: str | Path,
    checkpoint: Checkpoint,
    kind: str,
    dtype: str,
    *,
    threads: int = 1,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    wrote: Callable[[str, str, int, int], None] = lambda stage, name, done, total: None,
) -> Written:
    """Write ``config.json`` with its ``quantization_config``, safetensors and ``generation_config.json``; what stays
    floats, and scales, are of ``dtype``.

    ``wrote`` hears of the work: stage, tensor, weights done, weights in all. A folder saved to before keeps its files
    until all the new ones were read back.

    Raises: UnsupportedError for a model that the layout cannot say; WeightsError where what is read back is not what
    was written; CheckpointError for a full disk.
    """
    folder, config = Path(folder), checkpoint.config
    plan = plan_of(config, kind, dtype)
    described = {**description(config, dtype), "quantization_config": plan.settings}
    tensors = _Tensors(plan, checkpoint.weights, threads, wrote)
    with Staging(folder) as staging:
        steps = stage_safetensors(staging, "model.safetensors", tensors, {"format": "pt"}, max_shard_bytes)
        if checkpoint.generation_config:
            steps.append((staging.json(dict(checkpoint.generation_config)), "generation_config.json"))
        steps.append((staging.json(described), "config.json"))
        with staging.named(steps) as preview:
            errors = _compared(open_checkpoint(preview), folder, checkpoint, plan, tensors.sums, wrote)
        staging.commit(steps)
    nbytes = sum((folder / step[1]).stat().st_size for step in steps if not isinstance(step, str))
    return Written(folder, nbytes, tensors.sizes, errors)


@dataclass
class _Tensors(Mapping[str, Array]):
    """Name → Array of what the folder holds, in order; a module's parts are made together, and one module is kept."""

    plan: Plan
    weights: Mapping[str, Array]
    threads: int
    wrote: Callable[[str, str, int, int], None]
    sums: dict[str, int] = field(default_factory=dict)  # of each module's numbers as a reader has them
    sizes: dict[str, int] = field(default_factory=dict)  # bytes by format

    def __post_init__(self) -> None:
        self._names: dict[str, tuple[Match, str]] = {}
        place = {name: number for number, name in enumerate(self.weights)}
        for match in sorted(self.plan.every, key=lambda match: place[match.ours[0]]):
            module = match.theirs.removesuffix(".weight")
            quantized = match.theirs.endswith(".weight") and module in self.plan.quantized
            for name in self._parts_of(module) if quantized else (match.theirs,):
                self._names[name] = match, module if quantized else ""
        self._made: dict[str, Array] = {}
        self._done = 0
        self._total = sum(int(np.prod(shape)) for shape in self.plan.shapes.values())

    def _parts_of(self, module: str) -> tuple[str, ...]:
        leaves = ("weight",) if self.plan.kind == "fp8" else ("weight_packed", "weight_shape")
        return tuple(f"{module}.{leaf}" for leaf in (*leaves, "weight_scale"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> Array:
        match, module = self._names[name]
        if name in self._made:
            return self._made.pop(name)
        sources = [self.weights[ours] for ours in match.ours]
        whole = match.rule.inverse(sources, match.place)
        if module:
            self._made, logical = quantized(whole, self.plan, module, self.threads)
            self.sums[module] = checksum(logical)
        else:
            self._made = {name: convert(whole, self.plan.dtype)}
        kind = self.plan.kind if module else self.plan.dtype
        self.sizes[kind] = self.sizes.get(kind, 0) + sum(array.nbytes for array in self._made.values())
        for source in sources:
            release(source)
        self._done += int(np.prod(whole.shape))
        self.wrote("writing", module or name, self._done, self._total)
        return self._made.pop(name)


def quantized(whole: Array, plan: Plan, module: str, threads: int = 1) -> tuple[dict[str, Array], Array]:
    """A matrix's parts by name, and the matrix that a reader makes of them."""
    outputs, inputs = whole.shape
    groups = inputs // plan.group if plan.group else 1
    codes = np.empty(whole.shape, np.uint8)
    scale = np.empty((outputs, groups), np.float32)
    step = max(1, ROWS // inputs)

    def fill(start: int) -> None:
        rows = slice(start, start + step)
        values = dequantize(whole.with_data(whole.data[rows]))
        if not np.isfinite(values).all():
            raise WeightsError(f"{module}.weight holds values that are not finite", remedy="download the model again")
        if plan.kind == "fp8":
            codes[rows], scale[rows] = floats(values, plan.dtype)
        else:
            signed, scale[rows] = integers(values, BITS[plan.kind], groups, plan.dtype)
            codes[rows] = signed.view(np.uint8) + np.uint8(2 ** (BITS[plan.kind] - 1))  # modulo 256

    starts = range(0, outputs, step)
    if threads > 1 and len(starts) > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, starts))
    else:
        for start in starts:
            fill(start)
    stored = {f"{module}.weight_scale": _floats(scale, plan.dtype)}
    if plan.kind == "fp8":
        weight = Array("float8_e4m3fn", whole.shape, codes)
        return {f"{module}.weight": weight, **stored}, scaled(weight, scale, (1, inputs), plan.dtype)
    bits = BITS[plan.kind]
    half = 2 ** (bits - 1)
    zero = np.full((outputs, groups), half, np.float32)
    logical = Affine((outputs, inputs), lambda rows: codes[rows], 0, 2 * half - 1, scale, zero).array(plan.dtype)
    packed = Array("int32", (outputs, -(-inputs * bits // 32)), to_stream(codes, bits))
    shape = Array.from_numpy(np.array(whole.shape, np.int64))
    return {f"{module}.weight_packed": packed, f"{module}.weight_shape": shape, **stored}, logical


def _floats(values: np.ndarray, dtype: str) -> Array:
    if dtype == "bfloat16":
        return Array(dtype, values.shape, to_bfloat16(values))
    return Array.from_numpy(values.astype(dtype))


def checksum(array: Array) -> int:
    return zlib.crc32(
        np.ascontiguousarray(array.data).reshape(-1).view(np.uint8).data, zlib.crc32(array.dtype.encode())
    )


def _compared(
    again: Checkpoint,
    folder: Path,
    checkpoint: Checkpoint,
    plan: Plan,
    sums: Mapping[str, int],
    wrote: Callable[[str, str, int, int], None],
) -> dict[str, tuple[float, str]]:
    """What our own reader makes of the folder, beside what was to be written: each quantized matrix to the bit, and no
    further from the model than its format explains; the largest relative error by format.

    Raises: WeightsError where they part.
    """
    if lost := difference(checkpoint.config, again.config):
        raise WeightsError(f"the description read back is another: {lost}", where=folder)
    total, done = sum(int(np.prod(shape)) for shape in plan.shapes.values()), 0
    errors: dict[str, tuple[float, str]] = {}
    for match in plan.every:
        module = match.theirs.removesuffix(".weight")
        sources = [checkpoint.weights[name] for name in match.ours]
        whole = match.rule.inverse(sources, match.place)
        if match.theirs.endswith(".weight") and module in plan.quantized:
            read, kind = again.stored[match.theirs], plan.kind
            if checksum(read) != sums[module]:
                raise WeightsError(f"{match.theirs} read back is not what was written", where=folder)
        else:
            read, kind = again.stored[match.theirs], plan.dtype
            if checksum(read) != checksum(convert(whole, plan.dtype)):
                raise WeightsError(f"{match.theirs} read back is not what was written", where=folder)
        error = relative_error(whole, read)
        if error > ERROR.get(kind, 2**-7):
            raise WeightsError(
                f"{match.theirs} loses too much in {kind}",
                where=folder,
                expected=f"an error of at most {ERROR.get(kind, 2**-7):g} of its size",
                received=f"{error:g}",
                remedy="another format of --quantize",
            )
        errors[kind] = max(errors.get(kind, (0.0, "")), (error, match.theirs))
        for source in (*sources, *read.sources):
            release(source)
        done += int(np.prod(whole.shape))
        wrote("comparing", match.theirs, done, total)
    return errors
