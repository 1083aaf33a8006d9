"""The walk through a run, in a few numbers a layer: what each adds, what it would say, where it looks."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pellucid.explain.questions.attribution import Part, attribution
from pellucid.explain.questions.lens import lens
from pellucid.explain.questions.surprise import one_token
from pellucid.explain.record import NotRecordedError, Record

# What a walk needs to have been recorded.
STEPS = ("embed", "resid_pre", "attn_out", "mlp_out", "resid_post", "pattern", "final", "logits")


@dataclass(frozen=True)
class Guess:
    """A token that may come next."""

    token: int
    piece: str
    probability: float

    @property
    def bits(self) -> float:
        return -math.log2(self.probability) if self.probability > 0 else math.inf


@dataclass(frozen=True)
class Look:
    """How much of a position's attention another one gets, the mean over heads."""

    position: int
    piece: str
    share: float


@dataclass(frozen=True)
class LayerWalk:
    """One layer at one position; norms are lengths of vectors."""

    layer: int | None  # None: the embedding, before any layer
    stream: float
    attention: float | None
    mlp: float | None
    guesses: list[Guess]
    looks: list[Look]


@dataclass(frozen=True)
class Why:
    """What speaks for the likeliest token and against the next: parts of the difference of their logits, the largest
    first.
    """

    difference: float
    parts: list[Part]


@dataclass(frozen=True)
class Walk:
    """The walk at one position of one text."""

    position: int
    layers: list[LayerWalk]
    distribution: list[Guess]
    entropy_bits: float
    why: Why | None  # None where the steps it needs were not recorded
    target: Guess | None
    target_rank: int | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def walk(trace: Record, position: int = -1, *, row: int = 0, k: int = 8, target: str | int | None = None) -> Walk:
    """``target``: a token whose probability is asked for.

    Raises: NotRecordedError where one of ``STEPS`` was left out; RequestError for a target that is not one token.
    """
    seen = lens(trace, positions=[position], k=3)
    column, pieces = trace.column("logits", position), trace.pieces[row]
    place = trace.positions[column]

    def length(path: str) -> float:
        return float(torch.linalg.vector_norm(trace[path][row, column].float()))

    layers = []
    for i, name in enumerate(seen.names):
        top = zip(seen.top_ids[i, row, 0].tolist(), seen.top_probabilities[i, row, 0].tolist(), strict=True)
        guesses = [Guess(token, trace.piece(token), probability) for token, probability in top]
        if name == "layers.0.resid_pre":
            layers.append(LayerWalk(None, length(name), None, None, guesses, []))
            continue
        layer = trace.tap(name).layer
        shares = trace[f"layers.{layer}.pattern"][row, :, column].float().mean(0)  # over heads: (T,)
        top_shares = shares.topk(min(3, place + 1))
        looks = [
            Look(j, pieces[j], share)
            for share, j in zip(top_shares.values.tolist(), top_shares.indices.tolist(), strict=True)
        ]
        layers.append(
            LayerWalk(
                layer,
                length(name),
                length(f"layers.{layer}.attn_out"),
                length(f"layers.{layer}.mlp_out"),
                guesses,
                looks,
            )
        )
    probabilities = trace["logits"][row, column].float().softmax(-1)
    best = probabilities.topk(min(k, len(probabilities)))
    distribution = [
        Guess(token, trace.piece(token), p)
        for p, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    entropy = float(torch.special.entr(probabilities).sum() / math.log(2))
    asked = None if target is None else one_token(trace, target)
    rank = None if asked is None else int((probabilities > probabilities[asked]).sum()) + 1
    guess = None if asked is None else Guess(asked, trace.piece(asked), float(probabilities[asked]))
    return Walk(place, layers, distribution, entropy, _why(trace, place, row, *best.indices[:2].tolist()), guess, rank)


def _why(trace: Record, position: int, row: int, first: int, second: int) -> Why | None:
    try:
        parts = attribution(trace, position, first, against=second, row=row)
    except NotRecordedError:
        return None
    return Why(parts.logit, parts.ranked()[:6])
