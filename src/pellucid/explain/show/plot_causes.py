"""Pictures of causes for notebooks: what each head did to an answer, and where a fact is at each depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pellucid.explain.questions.causal import CausalMap
from pellucid.explain.questions.patching import PatchMap
from pellucid.explain.show.plot import heat_map, ruler

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_causal_map(causes: CausalMap, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Layers down, heads across, and beside them what is no head (a mixer as a whole, the MLP, a side input): orange
    where logit(A) − logit(B) rises without the part, blue where it falls. Grey: the layer has no such part.
    """
    heads, kinds = causes.heads(), [kind for kind in ("mixer", "mlp", "side") if _of(causes, kind)]
    if heads.isnan().all():
        heads = heads[:, :0]
    others = torch.full((len(heads), len(kinds)), float("nan"))
    for j, kind in enumerate(kinds):
        for effect in _of(causes, kind):
            others[effect.part.layer, j] = effect.change
    piece, chosen = causes.record.piece, causes.contrast
    said = f"logit({piece(chosen.a)!r}) − logit({piece(chosen.b)!r}) = {causes.gap:+.3f}: the change without each part"
    axes = heat_map(torch.cat((heads, others), 1), ax, title or said)
    axes.set(xlabel="head", ylabel="layer")
    axes.set_xticks(range(heads.shape[1] + len(kinds)), [*map(str, range(heads.shape[1])), *kinds], fontsize=8)
    axes.invert_yaxis()
    return axes


def plot_patch_map(patched: PatchMap, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Layers up, tokens across: the share of the answer that comes back with each place's vector."""
    piece, chosen = patched.source.piece, patched.contrast
    said = f"How much of {piece(chosen.a)!r} over {piece(chosen.b)!r} comes back"
    axes = heat_map(patched.share, ax, title or said, limit=1.0)
    pieces = patched.source.pieces[0], patched.target.pieces[0]
    labels = [a if a == b else f"{a}/{b}" for a, b in zip(*pieces, strict=True)]
    ruler(axes.xaxis, labels[: patched.share.shape[1]])
    axes.set(ylabel="before layer")
    axes.invert_yaxis()
    return axes


def _of(causes: CausalMap, kind: str) -> list[Any]:
    return [effect for effect in causes.effects if effect.part.kind == kind]
