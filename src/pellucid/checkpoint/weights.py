"""A checkpoint's arrays under our names, made one at a time as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import partial

from pellucid.base.array import BLOCKS, Array
from pellucid.base.errors import WeightsError
from pellucid.checkpoint.lazy import Lazy
from pellucid.config import ModelConfig, weight_shapes
from pellucid.families.rules import Rule, matches, to_ours

FLOATS = ("float32", "float16", "bfloat16", "float64")
HEAD = "lm_head.weight"
KEPT = 8  # pieces of fused weights kept for the next requests


class Weights(Lazy):
    """Our name → Array, in the order of computation. A plain rename costs nothing: the Array is a view of the file.

    ``ignored`` are patterns of their known buffers; ``prefixes`` may be absent from names in the file. With tied
    embeddings a head in the file is left unread. ``stored_names`` says which name in the file each of ours is made of.

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
        ignored: Iterable[str] = (),
        prefixes: Iterable[str] = (),
    ) -> None:
        if len(stored) < config.num_layers:  # before anything is planned for each layer that a damaged header claims
            raise WeightsError(
                f"{len(stored)} tensors cannot be a model of {config.num_layers} layers",
                where=where,
                remedy="a file may be missing",
            )
        names = _their_names(config, rules, stored, tuple(ignored), tuple(prefixes))
        head = next((rule.theirs for rule in rules if rule.ours == HEAD), HEAD)
        if config.tie_embeddings:
            names.pop(head, None)
        elif head not in names:
            raise WeightsError(
                f"{head} is missing, and the config does not tie it to the embeddings",
                where=where,
                remedy="if the model shares them, set tie_word_embeddings to true in config.json; else a file of the checkpoint is missing",
            )
        kept = max(
            KEPT, 3 * max(layer.experts.num_experts if layer.experts else 0 for layer in config.layers)
        )  # of a file's stacks of experts
        plan = to_ours(
            config, rules, Lazy({full: partial(stored.__getitem__, name) for full, name in names.items()}), where
        )
        waiting: dict[str, Array] = {}
        super().__init__(
            {name: partial(_one, name, plan[name], waiting, kept, where) for name in weight_shapes(config)}
        )
        self.stored_names = {ours: names[match.theirs] for match in matches(config, rules) for ours in match.ours}


def _one(name: str, make: Callable[[], dict[str, Array]], waiting: dict[str, Array], kept: int, where: object) -> Array:
    """One weight; those that came of the same array with it (k and v with q) wait to be asked for."""
    array = waiting.pop(name, None)
    if array is None:
        made = make()
        array = made.pop(name)
        waiting |= made
        for old in list(waiting)[:-kept]:
            waiting.pop(old, None)
    if array.dtype not in FLOATS and array.dtype not in BLOCKS:
        raise WeightsError(f"{name} is no floating-point weight", where=where, received=array.dtype)
    return array


def _their_names(
    config: ModelConfig,
    rules: tuple[Rule, ...],
    stored: Mapping[str, Array],
    ignored: tuple[str, ...],
    prefixes: tuple[str, ...],
) -> dict[str, str]:
    """Name in the rules → name in the file, without the buffers that are ignored."""
    known = {theirs for rule in rules for theirs, _, _ in rule.places(config)}
    names: dict[str, str] = {}
    for name in stored:
        full = next(
            (prefix + name for prefix in prefixes if prefix + name in known and prefix + name not in stored), name
        )
        if full in known or not any(fnmatchcase(name, pattern) for pattern in ignored):
            names[full] = name
    return names
