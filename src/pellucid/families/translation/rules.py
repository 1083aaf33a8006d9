"""Weight rules: one reversible table a family, used by load and save alike.

A ``Rule`` pairs *their* names with *ours*; ``{i}`` stands for the layer, ``{e}`` for the expert of a sparse one.
Transforms turn the arrays under their names into the arrays under ours, and back. All are moves of whole rows, or
transposes: the values never change, but for a norm's where a file means γ by another offset (``NormOffset``).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError, WeightsError
from pellucid.config import AttentionConfig, LayerConfig, ModelConfig, weight_shapes
from pellucid.quant import dequantize

Place = LayerConfig | ModelConfig  # what a weight belongs to: a layer, or the model as a whole


class Transform(Protocol):
    def forward(self, arrays: list[Array], place: Place) -> list[Array]: ...
    def inverse(self, arrays: list[Array], place: Place) -> list[Array]: ...


class Transpose:
    """(in, out) ↔ (out, in): GPT-2 stores its projections as ``Conv1D``. What is known to lie by outputs stays so."""

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        return [array if array.by_outputs else array.with_data(np.ascontiguousarray(array.data.T)) for array in arrays]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        if any(array.is_blocks for array in arrays):
            raise UnsupportedError("a block-quantized weight cannot be transposed")
        return [array.with_data(np.ascontiguousarray(array.data.T)) for array in arrays]


class OneNumber:
    """A number that a file holds without an axis, as a vector of one; back: without it."""

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        return [array.with_data(array.data.reshape(1)) for array in arrays]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        return [array.with_data(array.data.reshape(())) for array in arrays]


class Squeeze:
    """A convolution of each channel by itself, (channels, 1, width), as a matrix; back: with the 1 between."""

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        if any(len(array.shape) != 3 or array.shape[1] != 1 for array in arrays):
            raise WeightsError(
                "a convolution mixes channels", expected="(channels, 1, width)", received=[a.shape for a in arrays]
            )
        return [array.with_data(array.data[:, 0]) for array in arrays]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        return [array.with_data(array.data[:, None]) for array in arrays]


@dataclass(frozen=True)
class DropRows:
    """A table whose first rows are never read, without them; back: zeros in their place."""

    rows: int

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        return [array.with_data(array.data[self.rows :]) for array in arrays]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        return [array.with_data(np.pad(array.data, ((self.rows, 0), (0, 0)))) for array in arrays]


@dataclass(frozen=True)
class Split:
    """One array cut along its first axis into several, by sizes of the layer's description; back: concatenated."""

    sizes: Callable[[LayerConfig], tuple[int, ...]]

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        (whole,) = arrays
        assert isinstance(place, LayerConfig)
        sizes = self.sizes(place)
        if whole.shape[0] != sum(sizes):
            raise WeightsError(
                "a fused weight has the wrong number of rows",
                expected=f"{' + '.join(map(str, sizes))} = {sum(sizes)}",
                received=whole.shape[0],
                remedy="check the head counts and widths in config.json",
            )
        edges = np.cumsum((0, *sizes))
        return [whole.with_data(whole.data[start:stop]) for start, stop in pairwise(edges)]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        return [arrays[0].with_data(np.concatenate([array.data for array in arrays]))]


@dataclass(frozen=True)
class SplitParts:
    """``Split``, and then transforms of each part's own."""

    sizes: Callable[[LayerConfig], tuple[int, ...]]
    parts: tuple[tuple[Transform, ...], ...]

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        made = Split(self.sizes).forward(arrays, place)
        for i, transforms in enumerate(self.parts):
            for transform in transforms:
                made[i : i + 1] = transform.forward(made[i : i + 1], place)
        return made

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        made = list(arrays)
        for i, transforms in enumerate(self.parts):
            for transform in reversed(transforms):
                made[i : i + 1] = transform.inverse(made[i : i + 1], place)
        return Split(self.sizes).inverse(made, place)


@dataclass(frozen=True)
class SplitBlocks:
    """Rows of several maps for the first block of heads, then for the second, …, cut into the maps; back: by block.

    ``blocks``: how many; ``sizes``: rows of each map in a block.
    """

    blocks: Callable[[LayerConfig], int]
    sizes: Callable[[LayerConfig], tuple[int, ...]]

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        (whole,) = arrays
        assert isinstance(place, LayerConfig)
        blocks, sizes = self.blocks(place), self.sizes(place)
        if whole.shape[0] != blocks * sum(sizes):
            raise WeightsError(
                "a fused weight has the wrong number of rows",
                expected=f"{blocks} · ({' + '.join(map(str, sizes))})",
                received=whole.shape[0],
                remedy="check the head counts and widths in config.json",
            )
        rest = whole.data.shape[1:]
        rows, edges = whole.data.reshape(blocks, sum(sizes), *rest), np.cumsum((0, *sizes))
        return [whole.with_data(rows[:, start:stop].reshape(-1, *rest)) for start, stop in pairwise(edges)]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        assert isinstance(place, LayerConfig)
        blocks, rest = self.blocks(place), arrays[0].data.shape[1:]
        parts = [array.data.reshape(blocks, -1, *rest) for array in arrays]
        return [arrays[0].with_data(np.concatenate(parts, 1).reshape(-1, *rest))]


@dataclass(frozen=True)
class SplitHeads:
    """Rows of q, k and v of the first block of heads, then of the second, …, cut into q, k and v; back: block by block.

    ``blocks``: how many; None: one a head. ``order``: where q, k and v are in a block.
    """

    blocks: int | None = None
    order: tuple[int, int, int] = (0, 1, 2)

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        (whole,) = arrays
        blocks, rest = self._blocks(place), whole.data.shape[1:]
        if whole.shape[0] % (3 * blocks):
            raise WeightsError(
                "rows do not divide into heads", expected=f"a multiple of {3 * blocks}", received=whole.shape[0]
            )
        parts = whole.data.reshape(blocks, 3, -1, *rest)
        return [whole.with_data(parts[:, i].reshape(-1, *rest)) for i in self.order]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        blocks, rest = self._blocks(place), arrays[0].data.shape[1:]
        parts = [arrays[self.order.index(i)].data.reshape(blocks, -1, *rest) for i in range(3)]
        return [arrays[0].with_data(np.stack(parts, 1).reshape(-1, *rest))]

    def _blocks(self, place: Place) -> int:
        assert isinstance(place, LayerConfig)
        return self.blocks or place.mixer.num_heads


class SplitGroups:
    """Rows of the query heads that share a key-value head, its key's and its value's, then of the next, cut into q, k
    and v; back: group by group.
    """

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        (whole,) = arrays
        groups, heads, rest = *self._sizes(place), whole.data.shape[1:]
        if whole.shape[0] % (groups * (heads + 2)):
            raise WeightsError(
                "rows do not divide into heads",
                expected=f"a multiple of {groups * (heads + 2)}",
                received=whole.shape[0],
            )
        parts = whole.data.reshape(groups, heads + 2, -1, *rest)
        cuts = parts[:, :heads], parts[:, heads], parts[:, heads + 1]
        return [whole.with_data(np.ascontiguousarray(cut).reshape(-1, *rest)) for cut in cuts]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        groups, heads, rest = *self._sizes(place), arrays[0].data.shape[1:]
        q, k, v = arrays
        parts = (
            q.data.reshape(groups, heads, -1, *rest),
            *(part.data.reshape(groups, 1, -1, *rest) for part in (k, v)),
        )
        return [q.with_data(np.concatenate(parts, 1).reshape(-1, *rest))]

    def _sizes(self, place: Place) -> tuple[int, int]:
        """Groups, and query heads in each."""
        assert isinstance(place, LayerConfig)
        attention = place.attention
        assert attention is not None
        return attention.num_kv_heads, attention.num_heads // attention.num_kv_heads


class Unstack:
    """One array (E, …) of all experts of a layer cut into E of one each; back: stacked. Nothing is copied on the way to
    ours.
    """

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        (stack,) = arrays
        assert isinstance(place, LayerConfig)
        assert place.experts is not None
        if stack.shape[0] != place.experts.num_experts:
            raise WeightsError(
                "a stack of experts has the wrong number of them",
                expected=place.experts.num_experts,
                received=stack.shape[0],
                remedy="check num_experts in config.json",
            )
        return [stack.with_data(expert) for expert in stack.data]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        return [arrays[0].with_data(np.stack([array.data for array in arrays]))]


class GammaByHead:
    """A head's γ in each row of a file's matrix (H, E), for a description that has them side by side, (H · E,)."""

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        return [array.with_data(array.data.reshape(-1)) for array in arrays]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        assert isinstance(place, LayerConfig)
        return [array.with_data(array.data.reshape(-1, place.mixer.head_dim)) for array in arrays]


@dataclass(frozen=True)
class EachExpert:
    """One matrix (E · F, D) of all experts of a layer, one below the other, cut into E of one each, each then by
    ``transform``; back: set below each other.
    """

    transform: Transform | None = None

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        (whole,) = arrays
        assert isinstance(place, LayerConfig)
        assert place.experts is not None
        if len(whole.shape) != 2 or whole.shape[0] % place.experts.num_experts:
            raise WeightsError(
                "rows do not divide into experts",
                expected=f"a multiple of {place.experts.num_experts}",
                received=whole.shape[0],
                remedy="check the number of experts in config.json",
            )
        stack = whole.data.reshape(place.experts.num_experts, -1, whole.data.shape[1])
        parts = [whole.with_data(part) for part in stack]
        return parts if self.transform is None else [self.transform.forward([part], place)[0] for part in parts]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        if self.transform is not None:
            arrays = [self.transform.inverse([array], place)[0] for array in arrays]
        return [arrays[0].with_data(np.concatenate([array.data for array in arrays]))]


@dataclass(frozen=True)
class Each:
    """A transform of one array into ``parts``, of each of several; back: of each group of so many."""

    transform: Transform
    parts: int = 1

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        return [part for array in arrays for part in self.transform.forward([array], place)]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        groups = (arrays[i : i + self.parts] for i in range(0, len(arrays), self.parts))
        return [array for group in groups for array in self.transform.inverse(group, place)]


@dataclass(frozen=True)
class Upright:
    """Matrices that a file may have lying, told by one of their sizes: axis ``axis`` (0 rows, 1 columns) is to have
    ``size``; where the other axis has it instead, they are turned, as transformers does. Back: as they are.
    """

    axis: int
    size: Callable[[LayerConfig], int]

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        assert isinstance(place, LayerConfig)
        size = self.size(place)

        def lies(array: Array) -> bool:
            return len(array.shape) == 2 and array.shape[self.axis] != size == array.shape[1 - self.axis]

        return [Transpose().forward([array], place)[0] if lies(array) else array for array in arrays]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        return arrays


@dataclass(frozen=True)
class Deal:
    """One array's rows dealt out in turn to several: 0, 2, 4, … and 1, 3, 5, …; back: put together in turn."""

    parts: int = 2

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        (whole,) = arrays
        if whole.shape[0] % self.parts:
            raise WeightsError("rows do not divide", expected=f"a multiple of {self.parts}", received=whole.shape[0])
        return [whole.with_data(whole.data[i :: self.parts]) for i in range(self.parts)]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        rows = np.stack([array.data for array in arrays], 1)
        return [arrays[0].with_data(rows.reshape(-1, *rows.shape[2:]))]


@dataclass(frozen=True)
class NormOffset:
    """A norm's weight in files whose γ is ``offset`` + the weight, for a description whose norms have another one.

    Where the offsets are the same nothing changes; else the weight is computed anew, in float32: a GGUF file of Gemma
    holds γ, its folder what γ has beyond 1.
    """

    offset: float

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        return self._moved(arrays, self.offset - _offset_of(place))

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        return self._moved(arrays, _offset_of(place) - self.offset)

    def _moved(self, arrays: list[Array], by: float) -> list[Array]:
        if by == 0:
            return arrays
        return [Array.from_numpy(dequantize(array).astype(np.float32) + np.float32(by)) for array in arrays]


def _offset_of(place: Place) -> float:
    norm = place.final_norm if isinstance(place, ModelConfig) else next(iter(place.norms.values()), None)
    return norm.offset if norm else 0.0


# Rows of a projection that holds q, k and v in one.
SPLIT_QKV = Split(lambda layer: (layer.mixer.q_dim, layer.mixer.kv_dim, layer.mixer.kv_dim))


def qkv_names(kind: str) -> tuple[str, ...]:
    """Our names of what such a projection holds; ``kind`` is weight or bias."""
    return tuple(f"layers.{{i}}.attention.{name}_proj.{kind}" for name in "qkv")


# Rows of a projection that holds an MLP's gate and up in one.
SPLIT_GATE_UP = Split(lambda layer: (layer.mlp.d_ff, layer.mlp.d_ff))


# Rows of one that holds those of the expert that every token goes through.
SPLIT_SHARED = Split(lambda layer: (layer.experts.shared.d_ff,) * 2 if layer.experts and layer.experts.shared else ())


def gate_up_names(kind: str) -> tuple[str, ...]:
    return tuple(f"layers.{{i}}.mlp.{name}_proj.{kind}" for name in ("gate", "up"))


@dataclass(frozen=True)
class PermuteRope:
    """Rows of q or k from interleaved pairs (2j, 2j+1) to halves (j, j + dim/2); back: the other way.

    llama2.c and GGUF's ``llama`` keep the interleaved order; Hugging Face's Llama the halves.
    """

    heads: Callable[[AttentionConfig], int]

    def _heads_of(self, array: Array, place: Place) -> int:
        assert isinstance(place, LayerConfig)
        heads = self.heads(place.mixer)
        if array.shape[0] % (2 * heads):
            raise WeightsError(
                "rows do not divide into heads", expected=f"a multiple of {2 * heads}", received=array.shape[0]
            )
        return heads

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        (array,) = arrays
        rows, rest = array.data.shape[0], array.data.shape[1:]
        pairs = array.data.reshape(self._heads_of(array, place), -1, 2, *rest)
        return [array.with_data(pairs.swapaxes(1, 2).reshape(rows, *rest))]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        (array,) = arrays
        rows, rest = array.data.shape[0], array.data.shape[1:]
        halves = array.data.reshape(self._heads_of(array, place), 2, -1, *rest)
        return [array.with_data(halves.swapaxes(1, 2).reshape(rows, *rest))]


class SwapHalves:
    """The halves of each head's rows of q or k change places: for models whose pairs turn the other way round."""

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        (array,) = arrays
        assert isinstance(place, LayerConfig)
        attention, rest = place.attention, array.data.shape[1:]
        assert attention is not None
        if array.shape[0] % attention.head_dim:
            raise WeightsError(
                "rows do not divide into heads",
                expected=f"a multiple of {attention.head_dim}",
                received=array.shape[0],
            )
        halves = array.data.reshape(-1, 2, attention.head_dim // 2, *rest)
        return [array.with_data(np.ascontiguousarray(halves[:, ::-1]).reshape(-1, *rest))]

    inverse = forward


@dataclass(frozen=True)
class Rule:
    """``theirs`` ↔ ``ours``; a rule whose ours a model does not have (a bias, a tied head) does not apply to it."""

    theirs: str
    ours: str | tuple[str, ...]
    transforms: tuple[Transform, ...] = ()
    when: Callable[[LayerConfig], bool] | None = None  # the layers that it is for, where names differ with the shape

    @property
    def by_layer(self) -> bool:
        return "{i}" in self.theirs

    @property
    def names(self) -> tuple[str, ...]:
        """Ours, as a tuple."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    def places(self, config: ModelConfig) -> Iterator[tuple[str, tuple[str, ...], int]]:
        """(their name, our names, layer), everywhere in a model: once for each layer, and each expert, that the name
        stands for.

        Where ``{e}`` is in our name alone, theirs holds all experts of the layer in one.
        """
        ours = self.names
        if not self.by_layer:
            yield self.theirs, ours, 0
            return
        of_experts = "{e}" in ours[0]
        for i, layer in enumerate(config.layers):
            if self.when is not None and not self.when(layer):
                continue
            theirs, names = self.theirs.replace("{i}", str(i)), tuple(name.replace("{i}", str(i)) for name in ours)
            if not of_experts:
                yield theirs, names, i
                continue
            experts = [str(e) for e in range(layer.experts.num_experts)] if layer.experts else []
            if "{e}" in theirs:
                for e in experts:
                    yield theirs.replace("{e}", e), tuple(name.replace("{e}", e) for name in names), i
            elif experts:
                yield theirs, tuple(name.replace("{e}", e) for e in experts for name in names), i

    def forward(self, array: Array, place: Place) -> list[Array]:
        arrays = [array]
        for transform in self.transforms:
            arrays = transform.forward(arrays, place)
        return arrays

    def inverse(self, arrays: list[Array], place: Place) -> Array:
        for transform in reversed(self.transforms):
            arrays = transform.inverse(arrays, place)
        (array,) = arrays
        return array


def both(
    theirs: str,
    ours: str,
    transforms: tuple[Transform, ...] = (),
    when: Callable[[LayerConfig], bool] | None = None,
) -> tuple[Rule, Rule]:
    """The rules of a linear map or a norm: its weight, and its bias where it has one."""
    weight, bias = ((f"{theirs}.{kind}", f"{ours}.{kind}") for kind in ("weight", "bias"))
    return Rule(*weight, transforms, when), Rule(*bias, transforms, when)


def with_offset(rules: Iterable[Rule], offset: float) -> tuple[Rule, ...]:
    """The rules, of files whose norms mean γ = ``offset`` + the weight."""
    return tuple(
        replace(rule, transforms=(NormOffset(offset),)) if "norm" in rule.theirs and "weight" in rule.theirs else rule
        for rule in rules
    )


def without(rules: Iterable[Rule], *parts: str) -> tuple[Rule, ...]:
    """The rules whose own names have none of these parts."""
    return tuple(rule for rule in rules if not any(part in rule.theirs for part in parts))


def renamed(rules: Iterable[Rule], names: Mapping[str, str]) -> tuple[Rule, ...]:
    """The rules with parts of their own names replaced, of every part that a name has."""

    def name(theirs: str) -> str:
        for old, new in names.items():
            theirs = theirs.replace(old, new)
        return theirs

    return tuple(replace(rule, theirs=name(rule.theirs)) for rule in rules)


def as_stored(
    config: ModelConfig, rules: Iterable[Rule], other: Iterable[Rule], stored: Container[str]
) -> tuple[Rule, ...]:
    """The rules, with those of ``other`` in place of the ones for the same weights, wherever a file has their names,
    and the model has such weights there.
    """
    other = tuple(other)
    needed = weight_shapes(config) if other else {}
    found = [
        rule
        for rule in other
        if any(theirs in stored and needed.keys() >= set(ours) for theirs, ours, _ in rule.places(config))
    ]
    made = {name for rule in found for name in rule.names}
    return (*(rule for rule in rules if not made.issuperset(rule.names)), *found)


@dataclass(frozen=True)
class Match:
    """One rule at one layer: which of their names makes which of ours."""

    rule: Rule
    theirs: str
    ours: tuple[str, ...]
    place: Place


def matches(config: ModelConfig, rules: Iterable[Rule]) -> list[Match]:
    """Every rule that applies to the model, at every layer. Raises: UnsupportedError where the rules leave a weight
    out.
    """
    needed = weight_shapes(config)
    every = []
    for rule in rules:
        for theirs, ours, i in rule.places(config):
            if all(name in needed for name in ours):
                every.append(Match(rule, theirs, ours, config.layers[i] if rule.by_layer else config))
    covered = {name for match in every for name in match.ours}
    if uncovered := [name for name in needed if name not in covered]:
        raise UnsupportedError(f"this format has no place for {some(uncovered)}", where=config.model_type)
    return every


def to_ours(
    config: ModelConfig, rules: Iterable[Rule], arrays: Mapping[str, Array], where: object
) -> dict[str, Callable[[], dict[str, Array]]]:
    """Plan a load: each of our names → a call that makes it (and its siblings of a fused weight) from their arrays.

    Nothing is read or copied until a call is made. Shapes are checked in the call, against ``weight_shapes``.
    Raises: WeightsError naming what is missing and what is unexpected.
    """
    every = matches(config, rules)
    missing = [match.theirs for match in every if match.theirs not in arrays]
    used = {match.theirs for match in every}
    unexpected = [name for name in arrays if name not in used]
    if missing or unexpected:
        parts = [
            f"{len(names)} {kind}: {some(names)}"
            for kind, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise WeightsError(
            f"the weights do not fit the config; {'; '.join(parts)}",
            where=where,
            remedy="check num_hidden_layers and model_type in config.json, and that every file of the checkpoint is "
            "there",
        )
    shapes = weight_shapes(config)

    def make(match: Match) -> dict[str, Array]:
        try:
            made = match.rule.forward(arrays[match.theirs], match.place)
        except WeightsError as error:
            error.args = (f"{match.theirs}: {error}",)
            raise
        for name, array in zip(match.ours, made, strict=True):
            if array.shape != shapes[name]:
                raise WeightsError(
                    f"{match.theirs} has the wrong shape for {name}",
                    where=where,
                    expected=list(shapes[name]),
                    received=list(array.shape),
                    remedy="check the widths and head counts in config.json",
                )
        return dict(zip(match.ours, made, strict=True))

    return {name: (lambda match=match: make(match)) for match in every for name in match.ours}


def to_theirs(config: ModelConfig, rules: Iterable[Rule], arrays: Mapping[str, Array]) -> Iterable[tuple[str, Array]]:
    """Our arrays under their names, one at a time (only a fused or transposed weight is copied)."""
    for match in matches(config, rules):
        yield match.theirs, match.rule.inverse([arrays[name] for name in match.ours], match.place)


def some(names: list[str], most: int = 4) -> str:
    """The first few names, and how many more there are."""
    first = [name if len(name) <= 120 else f"{name[:119]}…" for name in names[:most]]
    return ", ".join(first) + (f", … ({len(names) - most} more)" if len(names) > most else "")
