"""What the page asks about causes: contrasts, maps a few layers at a time, and the pair of sentences it begins with."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.explain.prompt import spelled
from pellucid.explain.questions.cards import head_card
from pellucid.explain.questions.causal import Part, dose, parts_of, silenced
from pellucid.explain.questions.contrast import Contrast, contrast
from pellucid.explain.questions.patching import movers, paired, patched
from pellucid.explain.show.answers import Params
from pellucid.explain.show.runs import Run

FACTORS = [i / 8 for i in range(9)]


def contrast_at(run: Run, params: Params) -> dict[str, Any]:
    """The two answers that are asked about, as words or ids; empty ones are the likeliest."""
    chosen = contrast(run.record, _answer(params.get("a")), _answer(params.get("b")), int(params.get("pos", -1)))
    return chosen.to_json(run.record)


def _answer(text: str | None) -> int | str | None:
    """``#123`` is a token's id, anything else a word."""
    if not text:
        return None
    return int(text[1:]) if text.startswith("#") and text[1:].isdigit() else text


def _contrast(params: Params) -> Contrast:
    return Contrast(int(params.get("pos", -1)), int(params.get("a", 0)), int(params.get("b", 0)))


def causes(run: Run, params: Params) -> dict[str, Any]:
    """What silencing each part of some layers changes."""
    record, chosen = run.record, _contrast(params)
    layers = _span(params.get("layers"), record.config.num_layers)
    gap, effects = silenced(record, chosen, [part for part in parts_of(record.model) if part.layer in layers])
    return {
        "gap": gap,
        "parts": [
            {
                **part_json(effect.part),
                "change": effect.change,
                "then": record.piece(effect.then),
                "kl": effect.kl,
            }
            for effect in effects
        ],
    }


def part_json(part: Part) -> dict[str, Any]:
    return {"layer": part.layer, "what": part.kind, "head": part.head, "path": part.path}


def dose_of(run: Run, params: Params) -> dict[str, Any]:
    """logit(A) − logit(B) with a part's output times each of a few factors."""
    path, head = params.get("path", ""), params.get("head")
    wanted = [part for part in parts_of(run.record.model) if part.path == path and str(part.head) == str(head or None)]
    if not wanted:
        raise RequestError("there is no such part to scale", received=f"{path} {head}")
    return {"factors": FACTORS, "gaps": dose(run.record, _contrast(params), wanted[0], FACTORS)}


def looks(run: Run, params: Params) -> dict[str, Any]:
    """How much every head of the model looks from one position to another: a row for each layer that attends."""
    record, query, key = run.record, int(params.get("pos", -1)), int(params.get("key", 0))
    return {
        "layers": [
            {"layer": tap.layer, "p": record[name][0, :, record.column(name, query), key].tolist()}
            for name, tap in record.taps.items()
            if tap.operation.of_one and name in record and "head" in tap.axes
        ]
    }


def pair_json(source: Run, target: Run, a: str | None, b: str | None, *, proposed: bool) -> dict[str, Any]:
    """Two runs side by side. Raises: RequestError where they cannot be compared."""
    chosen, first = paired(source.record, target.record, _answer(a), _answer(b), -1)
    tokens = source.record.tokens[0], target.record.tokens[0]
    return {
        "target": target.name,
        "text": target.text,
        "tokens": [
            {"id": i, "text": text}
            for i, text in zip(tokens[1], spelled([target.record.piece(i) for i in tokens[1]]), strict=True)
        ],
        "first": first,
        "differ": [i for i, (x, y) in enumerate(zip(*tokens, strict=True)) if x != y],
        "proposed": proposed,
        "source_answers": chosen.to_json(source.record),
        "target_answers": chosen.to_json(target.record),
    }


def patch(source: Run, target: Run, params: Params) -> dict[str, Any]:
    """Some rows of a patch map: the share that comes back at each token."""
    chosen, layers = _contrast(params), source.record.config.num_layers
    rows = _span(params.get("rows"), layers + 1)
    first = int(params.get("first", 0))
    places = [(row, token) for row in rows for token in range(first, chosen.position + 1)]
    gaps, shares = patched(source.record, target.record, chosen, places)
    told = iter(shares)
    width = chosen.position + 1 - first
    return {
        "gaps": gaps,
        "rows": {str(row): [0.0] * first + [next(told) for _ in range(width)] for row in rows},
    }


def movers_of(source: Run, target: Run, params: Params) -> dict[str, Any]:
    """The parts of a layer that brought a share of the answer to a token, and where the strongest head looks."""
    layer, token = int(params.get("layer", 0)), int(params.get("token", 0))
    made = movers(source.record, target.record, _contrast(params), layer, token)
    best = next((mover for mover in made if mover.part.head is not None), None)
    pattern = f"layers.{layer}.pattern"
    where = []
    if best is not None and pattern in source.record:
        row = source.record[pattern][0, best.part.head, source.record.column(pattern, token)]
        where = [{"token": i, "p": float(row[i])} for i in row.topk(min(3, token + 1)).indices.tolist()]
    return {"parts": [{**part_json(mover.part), "share": mover.share} for mover in made[:6]], "looks": where}


def card(run: Run, habits: Tensor | None, params: Params) -> dict[str, Any]:
    """What a head looks at from a position, promotes and suppresses, and its habit."""
    layer, head = int(params.get("layer", 0)), int(params.get("head", 0))
    return head_card(run.record, layer, head, position=int(params.get("pos", -1)), habits=habits).to_json()


def _span(text: str | None, size: int) -> range:
    """``24:30``. Raises: RequestError."""
    if not text:
        return range(size)
    start, _, stop = text.partition(":")
    if not (start.isdigit() and stop.isdigit() and int(start) < int(stop) <= size):
        raise RequestError("there is no such range", expected=f"a:b within 0:{size}", received=text)
    return range(int(start), int(stop))
