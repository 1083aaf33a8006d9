"""What LoRA is told and what it makes, and which linear maps of a model it can be made for; no torch here.

An adapter names modules as Hugging Face's model does. Where that keeps several of our linear maps in one (GPT-2's
``c_attn``, ChatGLM's ``query_key_value``), A is theirs in common and B is cut along its rows, as the weight itself is;
so the family's weight rules translate adapters, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError, UnsupportedError
from pellucid.base.typed import is_real, shown
from pellucid.config import ModelConfig, weight_shapes
from pellucid.families import family_of
from pellucid.families.translation.rules import EachExpert, Match, Rule, Transpose, Unstack, matches

LINEAR = "_proj"  # how the names of linear maps inside the layers end
HEAD = "lm_head"
ALL_LINEAR = "all-linear"  # every linear map inside the layers, as PEFT means it: not the output head
MAX_RANK = 2**16


@dataclass(frozen=True)
class LoraSettings:
    """W + scale · B A, with A (rank, in) and B (out, rank); scale = alpha / rank, or alpha / √rank (``rslora``).

    ``targets`` name linear maps by our names or Hugging Face's (``q_proj``, ``c_attn``, ``layers.3.mlp.up_proj``): the
    whole name or its last parts. Source: Hu et al. 2021 §4.1; Kalajdzievski 2023 (rank-stabilized).

    ``dora``: m · (W + scale · B A) / ‖W + scale · B A‖, row by row, with the magnitudes m (out,) learned as well; they
    begin as W's own. Source: Liu et al. 2024 eq. 5. ``modules_to_save``: what learns all of its weights beside, by the
    same names (``embed_tokens``, ``lm_head``, norms).
    """

    rank: int = 8
    alpha: float = 16.0
    targets: str | tuple[str, ...] = ALL_LINEAR
    dropout: float = 0.0  # of the map's input, in training
    rslora: bool = False
    dora: bool = False
    modules_to_save: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or not 1 <= self.rank <= MAX_RANK:
            raise ConfigError(
                "the rank must be a positive whole number",
                where="LoRA",
                expected=f"1 to {MAX_RANK}",
                received=shown(self.rank),
            )
        if not is_number(self.alpha) or not 0 < self.alpha < math.inf:
            raise ConfigError("alpha must be a positive number", where="LoRA", received=shown(self.alpha))
        if not is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ConfigError(
                "dropout must be a fraction", where="LoRA", expected="at least 0, below 1", received=shown(self.dropout)
            )
        if not self.targets:
            raise ConfigError(
                "there is nothing to adapt", where="LoRA", expected=f"{ALL_LINEAR}, or names of linear maps"
            )

    def scale(self, rank: int | None = None, alpha: float | None = None) -> float:
        """What B A is multiplied by in a map of this rank and alpha; None: those of the settings."""
        rank, alpha = rank or self.rank, self.alpha if alpha is None else alpha
        return alpha / (math.sqrt(rank) if self.rslora else rank)


@dataclass(frozen=True, eq=False)
class Update:
    """What one linear map gains: W + scale · B A; with a magnitude, its rows in those lengths (DoRA)."""

    a: Array  # (rank, in)
    b: Array  # (out, rank)
    scale: float
    magnitude: Array | None = None  # (out,)

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True)
class Projection:
    """A linear map of Hugging Face's model, and those of ours that it holds, in the order of its rows."""

    theirs: str  # model.layers.3.self_attn.q_proj
    ours: tuple[str, ...]  # layers.3.attention.q_proj
    match: Match

    @property
    def rows(self) -> Rule:
        """How its rows become those of ours. A transposed weight changes nothing: B is (out, rank) for it as well."""
        return replace(
            self.match.rule, transforms=tuple(t for t in self.match.rule.transforms if not isinstance(t, Transpose))
        )

    def parts(self, magnitude: Array) -> list[Array]:
        """A number for each of its rows, as those of our maps."""
        rows = self.rows.forward(magnitude.with_data(magnitude.data[:, None]), self.match.place)
        return [part.with_data(part.data[:, 0]) for part in rows]

    def joined(self, magnitudes: Sequence[Array]) -> Array:
        """``parts`` back."""
        whole = self.rows.inverse([one.with_data(one.data[:, None]) for one in magnitudes], self.match.place)
        return whole.with_data(whole.data[:, 0])

    @property
    def is_transposed(self) -> bool:
        return len(self.rows.transforms) < len(self.match.rule.transforms)


def projections(config: ModelConfig) -> list[Projection]:
    """Every linear map that can be adapted, in the order of computation. A tied head is none: it is the embedding
    table; nor are experts that a family's files stack in one tensor, of which PEFT makes no linear maps.
    """
    every = []
    for match in matches(config, family_of(config.model_type, "LoRA").WEIGHTS):
        ours = tuple(name.removesuffix(".weight") for name in match.ours)
        if any(isinstance(transform, Unstack | EachExpert) for transform in match.rule.transforms):
            continue
        if all(name.endswith(f"{LINEAR}.weight") or name == f"{HEAD}.weight" for name in match.ours):
            every.append(Projection(match.theirs.removesuffix(".weight"), ours, match))
    place = {name.removesuffix(".weight"): number for number, name in enumerate(weight_shapes(config))}
    return sorted(every, key=lambda projection: place[projection.ours[0]])


def targeted(config: ModelConfig, targets: str | Sequence[str]) -> Iterator[tuple[Projection, tuple[str, ...]]]:
    """Each projection of which something is wanted, and those of our maps in it that are.

    Raises: ConfigError for a target that the model does not have; UnsupportedError for one that is an embedding table.
    """
    every = projections(config)
    wanted = {targets} if isinstance(targets, str) else set(targets)
    known = {name for projection in every for name in (projection.theirs, *projection.ours)}
    for target in sorted(wanted - {ALL_LINEAR}):
        if not any(_names(target, name) for name in known):
            _refuse_target(config, target, known)
    for projection in every:
        whole = any(_names(target, projection.theirs) for target in wanted) or (
            ALL_LINEAR in wanted and projection.ours != (HEAD,)
        )
        ours = tuple(name for name in projection.ours if whole or any(_names(target, name) for target in wanted))
        if ours:
            yield projection, ours


def saved_matches(config: ModelConfig, modules: Sequence[str], *, by_endings: bool = False) -> list[Match]:
    """The weights, as Hugging Face's model names them, of modules that learn whole. ``by_endings``: of a file of
    PEFT's, to which ``norm`` is every module whose name ends so, ``input_layernorm`` as well. Raises: ConfigError for a
    module that the model does not have.
    """
    every = matches(config, family_of(config.model_type, "LoRA").WEIGHTS)
    chosen: dict[str, Match] = {}
    for module in modules:
        found = [
            match
            for match in every
            if (match.theirs.rpartition(".")[0].endswith(module) and by_endings)
            or any(_names(module, name.rpartition(".")[0]) for name in (match.theirs, *match.ours))
        ]
        if not found and _names(module, HEAD) and config.tie_embeddings:  # one table under two names
            found = [match for match in every if "embed.weight" in match.ours]
        if not found:
            leaves = sorted({match.theirs.split(".")[-2] for match in every if "." in match.theirs})
            raise ConfigError(
                f"the model has no module {module!r}", where="modules_to_save", expected=", ".join(leaves)
            )
        chosen |= {match.theirs: match for match in found}
    return list(chosen.values())


def _names(target: str, name: str) -> bool:
    return name == target or name.endswith("." + target)


def _refuse_target(config: ModelConfig, target: str, known: set[str]) -> None:
    tables = [
        rule.theirs
        for rule in family_of(config.model_type, "LoRA").WEIGHTS
        if rule.ours in ("embed.weight", "pos_embed.weight")
    ]
    tables += ["embed.weight", "pos_embed.weight", *(["lm_head.weight"] if config.tie_embeddings else [])]
    if any(_names(target, table.removesuffix(".weight")) for table in tables):
        tied = target.endswith(HEAD)
        raise UnsupportedError(
            f"{target} cannot be adapted: it is "
            + ("tied to the embedding table" if tied else "an embedding table, no linear map"),
            where="LoRA",
        )
    leaves = sorted({name.rpartition(".")[2] for name in known})
    raise ConfigError(
        f"the model has no linear map {target!r}", where="LoRA", expected=f"{ALL_LINEAR}, {', '.join(leaves)}"
    )


is_number = is_real
