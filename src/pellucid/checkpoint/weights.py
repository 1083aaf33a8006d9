"""A checkpoint's arrays under our names, made one at a time as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from pellucid.base.array import BLOCKS, Array
from pellucid.base.errors import WeightsError
from pellucid.base.notice import notice
from pellucid.checkpoint.files.lazy import Lazy
from pellucid.checkpoint.files.release import release
from pellucid.checkpoint.naming import naming
from pellucid.config import ModelConfig, weight_shapes
from pellucid.families.translation.rules import Match, Rule, as_stored, matches, some, to_ours
from pellucid.quant import convert

FLOATS = ("float32", "float16", "bfloat16", "float64")
SMALL_FLOATS = ("float8_e4m3fn", "float8_e5m2")  # without scales: numbers as they are
HEAD, TABLE = "lm_head.weight", "embed.weight"
KEPT = 8  # pieces of fused weights kept for the next requests
ROWS = 4096  # of two tables compared at a time


class Weights(Lazy):
    """Our name → Array, in the order of computation. A plain rename costs nothing: the Array is a view of the file.

    ``also`` are rules for other names that the same weights go by; ``ignored`` patterns of their known buffers;
    ``aliases`` are names under which a file holds a tensor once more without storing it again. ``stored_names`` says
    which name in the file each of ours is made of, ``config`` is the description that the files bear out: with tied
    embeddings and another head stored, it is no longer tied.

    ``strict``: tensors that are no part of the model are an error (llama.cpp's way), not a notice (transformers').
    ``zero_biases``: a bias that is absent is zero (llama.cpp's way).

    Raises: WeightsError that names what is missing and what is unexpected; on access, for a shape or dtype that cannot
    be.
    """

    def __init__(
        self,
        config: ModelConfig,
        rules: tuple[Rule, ...],
        stored: Mapping[str, Array],
        where: object,
        *,
        also: tuple[Rule, ...] = (),
        ignored: Iterable[str] = (),
        aliases: Mapping[str, str] | None = None,
        strict: bool = False,
        zero_biases: bool = False,
    ) -> None:
        if len(stored) < config.num_layers:  # before anything is planned for each layer that a damaged header claims
            raise WeightsError(
                f"{len(stored)} tensors cannot be a model of {config.num_layers} layers",
                where=where,
                remedy="a file may be missing",
            )
        aliases = {name: kept for name, kept in (aliases or {}).items() if name not in stored and kept in stored}
        known = {theirs for rule in (*rules, *also) for theirs, _, _ in rule.places(config)}
        named = naming(known, rules, (*stored, *aliases), tuple(ignored), where)
        names = {full: aliases.get(name, name) for full, name in named.names.items()}
        rules = as_stored(config, rules, also, names)
        if named.how:
            notice(f"{where}: in the names of tensors, {named.how}")
        self.config = config = _tied(config, rules, names, stored, where)
        every = matches(config, rules)
        shapes = weight_shapes(config)
        arrays = {full: partial(stored.__getitem__, name) for full, name in names.items()}
        if zero_biases:
            arrays |= {
                match.theirs: partial(_zeros, match, shapes)
                for match in every
                if match.theirs.endswith(".bias") and match.theirs not in names
            }
        used = {match.theirs for match in every}
        others = [*named.others, *(name for full, name in names.items() if full not in used)]
        missing = [full for full in used if full not in arrays]
        if missing == [_theirs(rules, HEAD)]:
            raise WeightsError(
                f"{missing[0]} is missing, and the config does not tie it to the embeddings",
                where=where,
                remedy="if the model shares them, set tie_word_embeddings to true in config.json; "
                "else a file of the checkpoint is missing",
            )
        if strict or missing:  # to_ours names both
            arrays |= {name: partial(stored.__getitem__, name) for name in others if name in stored}
        else:
            arrays = {full: make for full, make in arrays.items() if full in used}
            if others:
                count = f"{len(others)} tensors are" if len(others) > 1 else "a tensor is"
                notice(
                    f"{where}: {count} no part of the model that config.json describes, and left unread: {some(others)}"
                )
        kept = max(
            KEPT, 3 * max(layer.experts.num_experts if layer.experts else 0 for layer in config.layers)
        )  # of a file's stacks of experts
        plan = to_ours(config, rules, Lazy(arrays), where)
        waiting: dict[str, Array] = {}
        super().__init__({name: partial(_one, name, plan[name], waiting, kept, where) for name in shapes})
        self.stored_names = {
            ours: names[match.theirs] for match in every if match.theirs in names for ours in match.ours
        }


def _theirs(rules: Iterable[Rule], ours: str) -> str:
    return next((rule.theirs for rule in rules if rule.ours == ours), ours)


def _tied(
    config: ModelConfig, rules: tuple[Rule, ...], names: dict[str, str], stored: Mapping[str, Array], where: object
) -> ModelConfig:
    """The config, tied or not as the files have it; of a tied pair, ``names`` then holds the table alone.

    A pair that was saved once may be under either name. A head that is stored with other values is kept, as
    transformers 5 does.
    """
    if not config.tie_embeddings:
        return config
    head, table = _theirs(rules, HEAD), _theirs(rules, TABLE)
    if head not in names:
        return config
    if table in names and names[table] != names[head] and not _equal(stored[names[table]], stored[names[head]]):
        notice(
            f"{where}: tie_word_embeddings is true, but {names[head]} is stored with other values than {names[table]}; "
            "the stored head is kept"
        )
        return replace(config, tie_embeddings=False)
    names.setdefault(table, names[head])
    del names[head]
    return config


def _equal(a: Array, b: Array) -> bool:
    """Whether two tables hold the same numbers; read a part at a time, and given back to the system."""
    if a.shape != b.shape or a.is_blocks or b.is_blocks:
        return False

    def rows(array: Array, start: int) -> np.ndarray:
        part = array.with_data(array.data[start : start + ROWS])
        return (part if a.dtype == b.dtype else convert(part, "float32")).data

    same = all(np.array_equal(rows(a, start), rows(b, start)) for start in range(0, a.shape[0], ROWS))
    release(a)
    release(b)
    return same


def _zeros(match: Match, shapes: Mapping[str, tuple[int, ...]]) -> Array:
    return Array.from_numpy(np.zeros(sum(shapes[name][0] for name in match.ours), np.float32))


def _one(name: str, make: Callable[[], dict[str, Array]], waiting: dict[str, Array], kept: int, where: object) -> Array:
    """One weight; those that came of the same array with it (k and v with q) wait to be asked for."""
    array = waiting.pop(name, None)
    if array is None:
        made = make()
        array = made.pop(name)
        waiting |= made
        for old in list(waiting)[:-kept]:
            waiting.pop(old, None)
    if array.dtype not in (*FLOATS, *SMALL_FLOATS) and array.dtype not in BLOCKS:
        raise WeightsError(f"{name} is no floating-point weight", where=where, received=array.dtype)
    return array
