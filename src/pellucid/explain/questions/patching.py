"""Where a fact is: two texts that differ in a word, and how much of the answer comes back with each place's vector.

One text is run, and at one layer and token its stream is replaced by that of the other text; the rest of the model
goes on from there. The share of logit(A) − logit(B) that comes back, 0 for none and 1 for all of it, is drawn for every
layer and token: it shows where what the answer depends on is at each depth, and when it moves.
Source: Vig et al. 2020; Meng et al. 2022 (causal tracing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.explain.branches import TOKENS, branches
from pellucid.explain.edits import Edit, Patch
from pellucid.explain.questions.causal import Part, parts_of
from pellucid.explain.questions.contrast import Answer, Contrast, contrast
from pellucid.explain.record import Record

MOST = 4096  # cells of a map


@dataclass(frozen=True)
class PatchMap:
    """``share[i, t]``: with the stream of ``source`` at token t before layer i, or at the end (the last row).

    ``gaps`` are logit(A) − logit(B) of ``source`` and of ``target``, the run that is patched.
    """

    source: Record
    target: Record
    contrast: Contrast
    gaps: tuple[float, float]
    first: int  # the first token that differs; before it nothing can come back
    share: Tensor  # (L + 1, position + 1)

    def jumps(self) -> list[tuple[int, int, float]]:
        """(layer, token, gain): in which layer each token gains a share, the largest gain first."""
        gain = self.share[1:] - self.share[:-1]
        places = [(i, t, gain[i, t].item()) for i in range(gain.shape[0]) for t in range(gain.shape[1])]
        return sorted(places, key=lambda place: -place[2])


@torch.no_grad()
def patch_map(
    source: Record, target: Record, a: Answer | None = None, b: Answer | None = None, *, position: int = -1
) -> PatchMap:
    """How much of the answer to ``source`` comes back in ``target``, layer by token.

    ``a`` and ``b``: by default what the model answers to either text.

    Raises: RequestError where the texts have not as many tokens, or do not differ; where the answers are the same.
    """
    chosen, first = paired(source, target, a, b, position)
    places = places_of_map(source, chosen, first)
    gaps, share = (0.0, 0.0), torch.zeros(source.config.num_layers + 1, chosen.position + 1)
    size = max(1, TOKENS // (chosen.position + 1))
    for start in range(0, len(places), size):
        some = places[start : start + size]
        gaps, shares = patched(source, target, chosen, some)
        for (row, token), value in zip(some, shares, strict=True):
            share[row, token] = value
    return PatchMap(source, target, chosen, gaps, first, share)


def paired(source: Record, target: Record, a: Answer | None, b: Answer | None, position: int) -> tuple[Contrast, int]:
    """What two runs are compared by, and the first token that differs. Raises: as ``patch_map``."""
    ours, theirs = source.tokens[0], target.tokens[0]
    if len(ours) != len(theirs):
        raise RequestError(
            "the two texts must have as many tokens",
            expected=f"{len(ours)}: {' '.join(map(source.piece, ours))}",
            received=f"{len(theirs)}: {' '.join(map(target.piece, theirs))}",
        )
    differ = [t for t, (x, y) in enumerate(zip(ours, theirs, strict=True)) if x != y]
    column = source.column("logits", position)
    place = source.positions[column]
    if not differ or differ[0] > place:
        raise RequestError("the two texts are the same up to there", received=f"position {place}")
    if a is None and b is None:
        best = [int(run["logits"][0, run.column("logits", place)].argmax()) for run in (source, target)]
        if best[0] != best[1]:
            return Contrast(place, *best), differ[0]
    return contrast(source, a, b, place), differ[0]


def places_of_map(source: Record, chosen: Contrast, first: int) -> list[tuple[int, int]]:
    """The cells in which the two streams differ: (row, token), the last rows first."""
    rows = range(source.config.num_layers, -1, -1)
    places = [(row, token) for row in rows for token in range(first, chosen.position + 1)]
    if len(places) > MOST:
        raise RequestError(
            "this map would have too many cells", expected=f"at most {MOST}", received=len(places),
            remedy="take a shorter text, or words that differ nearer to the end",
        )  # fmt: skip
    return places


@torch.no_grad()
def patched(
    source: Record, target: Record, chosen: Contrast, places: Sequence[tuple[int, int]]
) -> tuple[tuple[float, float], list[float]]:
    """The gaps of both runs, and the share that comes back with each cell."""
    last = source.config.num_layers - 1
    edits = [
        Patch(f"layers.{last}.resid_post" if row > last else f"layers.{row}.resid_pre", source, positions=[token])
        for row, token in places
    ]
    return _shares(source, target, chosen, edits)


def _shares(
    source: Record, target: Record, chosen: Contrast, edits: Sequence[Edit]
) -> tuple[tuple[float, float], list[float]]:
    run = branches(target, edits, position=chosen.position)
    column = source.column("logits", chosen.position)
    gaps = float(chosen.of(source["logits"][0, column])), float(chosen.of(run.plain))
    whole = gaps[0] - gaps[1]
    if whole == 0:
        raise RequestError("both texts leave the two answers equally far apart: there is nothing to bring back")
    return gaps, ((chosen.of(run.edited) - gaps[1]) / whole).tolist()


@dataclass(frozen=True)
class Mover:
    """A part of a layer, and the share that comes back when its output at one token is that of the source."""

    part: Part
    share: float


@torch.no_grad()
def movers(source: Record, target: Record, chosen: Contrast, layer: int, token: int) -> list[Mover]:
    """Which part of a layer brought a share of the answer to a token, the largest first: each head's output there, and
    the MLP's, is taken from the source by itself.
    """
    parts = [part for part in parts_of(source.model) if part.layer == layer]
    _, shares = _shares(source, target, chosen, [_taken(part, source, token) for part in parts])
    return sorted((Mover(part, share) for part, share in zip(parts, shares, strict=True)), key=lambda m: -m.share)


def _taken(part: Part, source: Record, token: int) -> Edit:
    """A part's output at one token, as the source has it."""
    donor = source[part.path]

    def take(value: Tensor, path: str) -> Tensor:
        value = value.clone()
        theirs = donor.to(value.device, value.dtype)
        if part.head is None:
            value[:, token] = theirs[:, token]
        else:
            value[:, part.head, token] = theirs[:, part.head, token]
        return value

    return Edit(part.path, take, f"take {part.path} at {token}")
