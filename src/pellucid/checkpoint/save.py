"""A description and its weights → a folder that transformers, and we, read back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from math import isclose
from pathlib import Path
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError, WeightsError
from pellucid.checkpoint.files.lazy import Lazy
from pellucid.checkpoint.files.safetensors_write import MAX_SHARD_BYTES, stage_safetensors
from pellucid.checkpoint.files.staging import Staging
from pellucid.config import ModelConfig, NormConfig, weight_shapes
from pellucid.families import family_of
from pellucid.families.translation.rules import Match, NormOffset, matches
from pellucid.quant import convert


def save_checkpoint(
    folder: str | Path,
    config: ModelConfig,
    weights: Mapping[str, Array],
    *,
    generation_config: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write ``config.json``, ``model.safetensors`` (or shards and their index), and ``generation_config.json`` where
    given.

    ``weights`` are ours, by our names; a mapping may make them as they are asked for, and one at a time is held.
    ``dtype`` converts them (what is block-quantized must be converted). A folder saved to before keeps its files until
    all the new ones are written whole.

    Raises: WeightsError for weights that do not fit the config; CheckpointError for a full disk, with the folder as it
    was.
    """
    folder, family = Path(folder), family_of(config.model_type, folder)
    shapes = weight_shapes(config)
    if absent := shapes.keys() - weights.keys():
        raise WeightsError(f"{len(absent)} weights are missing, {min(absent)} among them", where=folder)
    if extra := weights.keys() - shapes.keys():
        raise WeightsError(f"{len(extra)} weights have no place in the config, {min(extra)} among them", where=folder)

    def ours(name: str) -> Array:
        array = weights[name]
        if array.shape != shapes[name]:
            raise WeightsError(
                f"{name} has the wrong shape", where=folder, expected=list(shapes[name]), received=list(array.shape)
            )
        return convert(array, "float32") if dtype and array.is_blocks else array

    def theirs(match: Match) -> Callable[[], Array]:
        def make() -> Array:
            array = match.rule.inverse([ours(name) for name in match.ours], match.place)
            return convert(array, dtype) if dtype else array  # last: a norm may be moved by its offset before

        return make

    place = {name: number for number, name in enumerate(shapes)}
    in_order = sorted(
        matches(config, family.WEIGHTS), key=lambda match: place[match.ours[0]]
    )  # layer by layer, as they are read
    arrays = Lazy({match.theirs: theirs(match) for match in in_order})
    described = description(config, dtype or weights["embed.weight"].dtype)
    with Staging(folder) as staging:
        steps = stage_safetensors(staging, "model.safetensors", arrays, {"format": "pt"}, max_shard_bytes)
        if generation_config:
            steps.append((staging.json(dict(generation_config)), "generation_config.json"))
        steps.append((staging.json(described), "config.json"))
        staging.commit(steps)


def description(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """What ``config.json`` says of a model whose weights are stored in ``dtype``.

    Raises: UnsupportedError for a description that the family's config.json has no words for: read back, it would be
    another model.
    """
    family = family_of(config.model_type, "config.json")
    written = family.to_hf(config)
    again = family.config(written)
    moves = any(isinstance(transform, NormOffset) for rule in family.WEIGHTS for transform in rule.transforms)
    for field in fields(ModelConfig):
        if field.name in _NOT_THE_MODEL:
            continue
        if lost := _difference(field.name, getattr(config, field.name), getattr(again, field.name), moves):
            raise UnsupportedError(
                f"{config.model_type}'s config.json cannot say this model's {lost}",
                where="config.json",
                remedy="save it as a family that has it",
            )
    return {**written, "torch_dtype": dtype}


_NOT_THE_MODEL = ("extra", "dtype")  # what else config.json holds; how it is stored


def _difference(name: str, ours: Any, theirs: Any, moves: bool) -> str | None:
    """Where two descriptions part, ``layers.0.mixer.o_bias = True …``; None where nowhere. ``moves``: a norm's offset
    is of no account, since the rules move its weight by it.
    """
    pairs: Iterable[tuple[object, Any, Any]] = ()
    if isinstance(ours, tuple) and isinstance(theirs, tuple) and len(ours) == len(theirs):
        pairs = ((i, *pair) for i, pair in enumerate(zip(ours, theirs, strict=True)))
    elif is_dataclass(ours) and type(ours) is type(theirs):
        same = ("offset",) if moves and isinstance(ours, NormConfig) else ()
        pairs = (
            (field.name, getattr(ours, field.name), getattr(theirs, field.name))
            for field in fields(ours)
            if field.name not in same
        )
    elif ours == theirs or (isinstance(ours, float) and isinstance(theirs, (int, float)) and isclose(ours, theirs)):
        return None  # θ and its ratio to 10,000 differ by a rounding
    else:
        return f"{name} = {ours!r} (it would be read as {theirs!r})"
    return next((lost for part, a, b in pairs if (lost := _difference(f"{name}.{part}", a, b, moves))), None)
