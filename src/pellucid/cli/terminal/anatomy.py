"""What a checkpoint is made of, from its headers: each weight under our name, how it is stored, and what it takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pellucid.base.array import Array
from pellucid.checkpoint.open import Checkpoint
from pellucid.config import ModelConfig, weight_shapes
from pellucid.families import family_of
from pellucid.families.rules import Rule, matches

BYTES_OF = {"float32": 4, "bfloat16": 2, "float16": 2}
PARTS = ("embeddings", "attention", "MLP", "norms", "output head")


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
        return "attention" if ".attention." in self.name else "MLP" if ".mlp." in self.name else "embeddings"


def weights_of(checkpoint: Checkpoint) -> list[Weight]:
    """Every weight, in the order of computation. Nothing but headers is read."""
    config, shapes = checkpoint.config, weight_shapes(checkpoint.config)
    made: dict[str, Weight] = {}
    for match in matches(config, _rules(checkpoint)):
        stored = _find(checkpoint.stored, match.theirs)
        if stored is None:
            continue  # a tied head, or one that another rule makes
        whole = sum(math.prod(shapes[name]) for name in match.ours)
        for name in match.ours:  # pieces of a fused weight: rows of one array, so bytes go with parameters
            made[name] = Weight(name, shapes[name], stored.dtype, stored.nbytes * math.prod(shapes[name]) // whole)
    return [made[name] for name in shapes if name in made]


def _rules(checkpoint: Checkpoint) -> Iterable[Rule]:
    """The table that names the checkpoint's weights, by its format."""
    if checkpoint.kind == "llama2c":
        from pellucid.checkpoint import llama2c

        return llama2c.WEIGHTS
    family = family_of(checkpoint.config.model_type, checkpoint.path)
    return family.GGUF.weights if checkpoint.kind == "gguf" else family.WEIGHTS


def _find(stored: Mapping[str, Array], name: str) -> Array | None:
    """A stored array by its full name, or without the first part of it (``transformer.``), which some files leave out."""
    return stored.get(name) or stored.get(name.partition(".")[2])


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
    for number, its in by_layer.items():
        alike.setdefault(tuple(its), []).append(number)
    return [LayerGroup(tuple(numbers), its) for its, numbers in alike.items()]


def cache_bytes(config: ModelConfig, context_len: int, dtype: str) -> int:
    """The key-value cache of one request of ``context_len`` tokens: 2 · Σ over layers of kv_dim · positions kept."""
    kept = (layer.mixer.kv_dim * min(context_len, layer.mixer.window or context_len) for layer in config.layers)
    return 2 * BYTES_OF[dtype] * sum(kept)
