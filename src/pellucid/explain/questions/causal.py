"""What each part of the model did to an answer: the exact change when it is silenced, for every head and every MLP.

The effect of a part is logit(A) − logit(B) of the run without it, less that of the run as it is. Nothing is
approximated: every number is a run of the model, in which the other parts answer to what is missing. (A first-order
estimate by the gradient is no substitute: it can have the wrong size and sign where attention moves.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pellucid.explain.branches import TOKENS, branches, groups
from pellucid.explain.edits import Edit
from pellucid.explain.questions.contrast import Answer, Contrast, contrast
from pellucid.explain.record import Record
from pellucid.model.decoder import Decoder
from pellucid.operations import taps_of


@dataclass(frozen=True)
class Part:
    """A part of the model that can be silenced: one head of the step ``path``, or all of it (``head`` None)."""

    layer: int
    path: str
    head: int | None = None

    @property
    def kind(self) -> str:
        """``head``; ``mixer`` of a layer whose mixer has no heads; ``mlp``; ``side``."""
        name = self.path.rpartition(".")[2]
        return "head" if self.head is not None else {"mlp_out": "mlp", "side_out": "side"}.get(name, "mixer")

    def scaled(self, factor: float) -> Edit:
        """The part's output times ``factor``, at every position: 0 silences it."""

        def scale(value: torch.Tensor, path: str) -> torch.Tensor:
            if self.head is None:
                return value * factor
            value = value.clone()
            value[:, self.head] *= factor
            return value

        what = self.path if self.head is None else f"head {self.head} of {self.path}"
        return Edit(self.path, scale, f"{what} × {factor:g}")


@dataclass(frozen=True)
class Effect:
    """``change``: of logit(A) − logit(B) when the part is silenced; ``then``: the likeliest token without it."""

    part: Part
    change: float
    then: int
    kl: float  # nats, KL(plain ‖ without it)


@dataclass(frozen=True)
class CausalMap:
    """``gap`` is logit(A) − logit(B) of the run as it is."""

    record: Record
    contrast: Contrast
    gap: float
    effects: list[Effect]

    def ranked(self) -> list[Effect]:
        """The largest first."""
        return sorted(self.effects, key=lambda effect: -abs(effect.change))

    def heads(self) -> torch.Tensor:
        """(L, H) the change of each attention head; NaN where a layer has no such head."""
        heads = [effect for effect in self.effects if effect.part.head is not None]
        width = max((effect.part.head or 0 for effect in heads), default=0) + 1
        table = torch.full((self.record.config.num_layers, width), float("nan"))
        for effect in heads:
            assert effect.part.head is not None
            if table[effect.part.layer, effect.part.head].isnan():  # of two mixers side by side, the first
                table[effect.part.layer, effect.part.head] = effect.change
        return table

    def __str__(self) -> str:
        piece, c = self.record.piece, self.contrast
        lines = [f"logit({piece(c.a)!r}) − logit({piece(c.b)!r}) = {self.gap:+.3f}; without"]
        for effect in self.ranked()[:10]:
            name = f"layer {effect.part.layer} " + (
                f"head {effect.part.head}" if effect.part.head is not None else effect.part.kind
            )
            lines.append(f"  {name:<18} {effect.change:+8.3f}   then {piece(effect.then)!r}")
        return "\n".join(lines)


def parts_of(model: Decoder) -> list[Part]:
    """Every head, every mixer without heads, every MLP and side input, in order of computation."""
    parts: list[Part] = []
    for layer in range(model.config.num_layers):
        taps = [tap for tap in taps_of(model.config).values() if tap.layer == layer]
        names = {tap.name for tap in taps}
        by_head = [tap for tap in taps if tap.operation.part == "head" and tap.axes[1] == "head"]
        for tap in by_head:
            parts += [Part(layer, tap.path, head) for head in range(tap.shape(1, 1, 1)[1])]
        outputs = {"attn_out", "beside_out"} & names if len(by_head) < 1 else set()
        parts += [Part(layer, f"layers.{layer}.{name}") for name in sorted(outputs)]
        parts += [Part(layer, f"layers.{layer}.{name}") for name in ("mlp_out", "side_out") if name in names]
    return parts


def causal_map(
    record: Record,
    a: Answer | None = None,
    b: Answer | None = None,
    *,
    position: int = -1,
    layers: Sequence[int] | None = None,
) -> CausalMap:
    """What every head and every MLP did to the choice of ``a`` over ``b`` after ``position``.

    ``a`` and ``b`` are words (``"are"``, ``"is"``) or token ids; by default the model's two likeliest answers.

    Raises: RequestError for an answer that is not one token; NotRecordedError without logits.
    """
    chosen, effects = contrast(record, a, b, position), []
    wanted = None if layers is None else {layer % record.config.num_layers for layer in layers}
    parts = [part for part in parts_of(record.model) if wanted is None or part.layer in wanted]
    for _, some in causal_maps(record, chosen, parts):
        effects += some
    effects.sort(key=lambda effect: parts.index(effect.part))
    gap = float(chosen.of(record["logits"][0, record.column("logits", chosen.position)]))
    return CausalMap(record, chosen, gap, effects)


def causal_maps(
    record: Record, chosen: Contrast, parts: Sequence[Part], *, tokens: int = TOKENS
) -> Iterator[tuple[float, list[Effect]]]:
    """The same as it is computed: the plain gap and some parts' effects at a time, the last layers first."""
    sizes = [sum(part.layer == layer for part in parts) for layer in range(record.config.num_layers)]
    for layers in groups(sizes, chosen.position + 1, tokens):
        some = [part for part in parts if part.layer in layers]
        if some:
            yield silenced(record, chosen, some)


@torch.no_grad()
def silenced(record: Record, chosen: Contrast, parts: Sequence[Part]) -> tuple[float, list[Effect]]:
    """The gap of the plain run, and each part's effect; all in one batch."""
    run = branches(record, [part.scaled(0.0) for part in parts], position=chosen.position)
    gap = float(chosen.of(run.plain))
    changes = (chosen.of(run.edited) - gap).tolist()
    then = run.edited.argmax(-1).tolist()
    plain, edited = run.plain.log_softmax(-1), run.edited.log_softmax(-1)
    kl = (plain.exp() * (plain - edited)).sum(-1).clamp(min=0).tolist()
    return gap, [Effect(*row) for row in zip(parts, changes, then, kl, strict=True)]


@torch.no_grad()
def dose(record: Record, chosen: Contrast, part: Part, factors: Sequence[float]) -> list[float]:
    """logit(A) − logit(B) with the part's output times each factor: 1 is the run as it is, 0 without the part."""
    edits = [part.scaled(factor) for factor in factors]
    return chosen.of(branches(record, edits, position=chosen.position).edited).tolist()
