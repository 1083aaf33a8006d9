"""What a checkpoint is made of, from its headers: each weight under our name, how it is stored, and what it takes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pellucid.checkpoint.open import Checkpoint
from pellucid.config import weight_shapes

BYTES_OF = {"float32": 4, "bfloat16": 2, "float16": 2}
PARTS = ("embeddings", "attention", "other mixers", "MLP", "norms", "output head")


@dataclass(frozen=True)
class Weight:
    """One weight: our name and shape, the dtype it is stored in, and the bytes it takes there."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int

    @property
    def num_parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def part(self) -> str:
        """The part of the model that it belongs to, one of PARTS."""
        if self.name.startswith("lm_head"):
            return "output head"
        if "norm." in self.name:
            return "norms"
        if not self.name.startswith("layers."):
            return "embeddings"
        return "MLP" if ".mlp." in self.name else "attention" if ".attention." in self.name else "other mixers"


def weights_of(checkpoint: Checkpoint) -> list[Weight]:
    """Every weight, in the order of computation. Nothing but headers is read."""
    shapes, names = weight_shapes(checkpoint.config), checkpoint.weights.stored_names
    together: dict[str, int] = {}  # elements of the pieces that one stored array makes
    for name, stored in names.items():
        together[stored] = together.get(stored, 0) + math.prod(shapes[name])

    def weight(name: str) -> Weight:
        array = checkpoint.stored[names[name]]  # bytes of a fused array go with the parameters of its pieces
        stored = sum(source.nbytes for source in array.sources)
        nbytes = stored * math.prod(shapes[name]) // together[names[name]]
        return Weight(name, shapes[name], array.stored_as, nbytes)

    return [weight(name) for name in shapes if name in names]


@dataclass(frozen=True)
class LayerGroup:
    """Layers whose weights have the same shapes and dtypes; ``weights`` are the first one's, named within the layer."""

    layers: tuple[int, ...]
    weights: tuple[Weight, ...]


def layer_groups(weights: Iterable[Weight]) -> list[LayerGroup]:
    """The layers, those alike together, in the order of each group's first."""
    by_layer: dict[int, list[Weight]] = {}
    for weight in weights:
        if weight.name.startswith("layers."):
            _, number, name = weight.name.split(".", 2)
            by_layer.setdefault(int(number), []).append(replace(weight, name=name))
    alike: dict[tuple[Weight, ...], list[int]] = {}
    for number, group in by_layer.items():
        alike.setdefault(tuple(group), []).append(number)
    return [LayerGroup(tuple(numbers), group) for group, numbers in alike.items()]
