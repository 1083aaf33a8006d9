"""What the page asks of one run, each answered from the record or the weights: nothing is made up for display."""

from __future__ import annotations

import linecache
import math
from collections import OrderedDict
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.explain.questions.attribution import Attribution, attribution
from pellucid.explain.questions.hiding import hiding
from pellucid.explain.questions.lens import lens
from pellucid.explain.questions.operands import operands
from pellucid.explain.questions.surprise import surprise
from pellucid.explain.record import Record
from pellucid.explain.show.answers import Params
from pellucid.explain.show.mathml import mathml
from pellucid.explain.show.runs import Run, likeliest, stream
from pellucid.explain.show.tiles import indices
from pellucid.explain.step import make_step

TOP = 256  # tokens of a distribution that are named; the rest come as numbers
TERMS = 40
HIDDEN = 64  # of the last tokens, each hidden in a run of its own


def checks(run: Run) -> dict[str, Any]:
    with run.lock:  # it reads what was recorded; the model's own lock stays free for the pictures
        all_of_them = run.checks
    return {
        "count": len(all_of_them),
        "largest": max((check.error for check in all_of_them), default=0.0),
        "failed": [check.to_json() for check in all_of_them.failed],
        "worst": [check.to_json() for check in all_of_them.worst()],
    }


def precision(run: Run) -> dict[str, Any] | None:
    """How far a native run is from torch's float32, step by step; None where torch ran."""
    with run.lock:
        return run.record.precision()


def step(run: Run, name: str) -> dict[str, Any]:
    described = make_step(run.record, name).to_json()
    file, _, line = described["code"].rpartition(":")
    path = str(files("pellucid") / file.removeprefix("pellucid/"))
    return described | {"code_text": linecache.getline(path, int(line or 0)).strip()}


def cell(run: Run, name: str, params: Params) -> dict[str, Any]:
    """Any number of a step, with its operands."""
    why = operands(run.record, name, indices(params.get("index", "")), max_terms=TERMS)
    described = make_step(run.record, name)
    answer = why.to_json()
    return {
        **answer,
        "value": "-inf" if why.value == -math.inf else answer["value"],
        "mathml": mathml(described.latex),
        "numbers": mathml(why.latex),
        "title": {"en": described.title, "zh": described.title_zh},
        "meaning": {"en": described.meaning, "zh": described.meaning_zh},
    }


def cell_of_weight(name: str, weight: Tensor, params: Params) -> dict[str, Any]:
    """Any number of a weight: it is made of nothing."""
    index = indices(params.get("index", ""))
    if len(index) != weight.ndim or any(not 0 <= i < size for i, size in zip(index, weight.shape, strict=True)):
        raise RequestError(
            "there is no such cell", where=name, expected=f"an index below {tuple(weight.shape)}", received=index
        )
    value = weight[tuple(index)].item()
    return {"name": name, "index": index, "kind": "weight", "value": value, "terms": [], "leads": [], "parts": {}}


def norms(run: Run) -> dict[str, Any]:
    """The length of the stream's vector at every position, layer by layer."""
    names = [name for name in stream(run.record) if name in run.record]
    lengths = [torch.linalg.vector_norm(run.record[name][0].float(), dim=-1) for name in names]
    return {"names": names, "norms": torch.stack(lengths, 1).tolist()}


def lens_at(run: Run, params: Params) -> dict[str, Any]:
    positions = indices(params.get("positions", str(run.length - 1)))[:16]
    followed = params.get("token")  # by default the model's own choice at each position
    seen = lens(run.record, positions=positions, tokens=None if followed is None else int(followed), k=4)
    piece, rows = run.record.piece, (seen.top_ids, seen.top_probabilities, seen.chosen_probability)
    layers = [
        [
            {
                "p": p[0],
                "top": [{"id": i, "text": piece(i), "p": share} for i, share in zip(ids, p, strict=True)],
                "followed": share_of_followed,
            }
            for ids, p, share_of_followed in zip(layer[0], probabilities[0], chosen[0], strict=True)
        ]
        for layer, probabilities, chosen in zip(*(row.tolist() for row in rows), strict=True)
    ]
    beside = {name: getattr(seen, name)[:, 0].tolist() for name in ("rank", "kl", "entropy")}
    chosen = [piece(i) for i in seen.chosen[0].tolist()]
    return {"names": seen.names, "layers": layers, "positions": seen.positions, "chosen": chosen, **beside}


def attribution_at(run: Run, params: Params) -> dict[str, Any]:
    token, against = params.get("token"), params.get("against")
    told = attribution(
        run.record,
        int(params.get("pos", -1)),
        None if token is None else int(token),
        against=int(against) if against else None,
    )
    return attribution_json(run.record, told)


def attribution_json(record: Record, told: Attribution) -> dict[str, Any]:
    parts: OrderedDict[tuple[str, int | None], float] = OrderedDict()
    for part in told.parts:  # heads of a layer together; constants together
        what = {"head": "attention"}.get(part.kind, part.kind)
        key = (what, part.layer if what != "bias" else None)
        parts[key] = parts.get(key, 0.0) + part.value
    return {
        "text": record.piece(told.token),
        "against": None if told.against is None else record.piece(told.against),
        "token": told.token,
        "logit": told.logit,
        "total": sum(parts.values()),
        "parts": [{"what": what, "layer": layer, "value": value} for (what, layer), value in parts.items()],
        "heads": [
            {"what": "attention", "layer": part.layer, "head": part.head, "value": part.value} for part in told.heads()
        ],
        "neurons": [{"what": "mlp", "layer": n.layer, "neuron": n.neuron, "value": n.value} for n in told.neurons(40)],
    }


def lookers(run: Run, params: Params) -> dict[str, Any]:
    """Which heads, of all layers, look most from one position to another."""
    record = run.record
    query, key = int(params.get("pos", -1)), int(params.get("key", 0))
    heads = [
        {"layer": tap.layer, "head": head, "p": p}
        for name, tap in record.taps.items()
        if tap.operation.of_one and name in record
        for head, p in enumerate(record[name][0, :, record.column(name, query), key].tolist())
    ]
    return {"heads": sorted(heads, key=lambda head: -head["p"])[:8], "of": len(heads)}


def hung_on(run: Run, params: Params) -> dict[str, Any]:
    """How likely a token would have been with each of the last tokens before it hidden, one at a time."""
    record, position = run.record, int(params.get("pos", -1)) % run.length
    ids, token = record.tokens[0][: position + 1], int(params.get("token", -1))
    if not 0 <= token < record.config.vocab_size:
        raise RequestError("there is no such token", expected=f"0 to {record.config.vocab_size - 1}", received=token)
    first = max(0, len(ids) - HIDDEN)
    told = hiding(record.model, ids, token, positions=range(first, len(ids)))
    rows = zip(told.positions, told.without, strict=True)
    return {
        "token": token,
        "text": record.piece(token),
        "logprob": told.plain,
        "first": first,
        "tokens": [{"pos": i, "id": ids[i], "text": record.piece(ids[i]), "logprob": value} for i, value in rows],
    }


def output(run: Run, params: Params) -> dict[str, Any]:
    record = run.record
    logits = record["logits"][0, record.column("logits", int(params.get("pos", -1)))].float()
    return {"top": likeliest(logits, record, TOP), "logsumexp": float(logits.logsumexp(-1)), "vocab": len(logits)}


def surprise_of_text(run: Run) -> dict[str, Any]:
    """How surprising each token of the text itself is."""
    if run.length < 2:
        raise RequestError("a text of one token has no next token to be surprised by")
    told, piece = surprise(run.record), run.record.piece
    rows = zip(told.targets[0].tolist()[:-1], told.nats[0].tolist(), told.probability[0].tolist(), strict=False)
    return {"mean": told.mean_nats, "tokens": [{"id": i, "text": piece(i), "nats": n, "p": p} for i, n, p in rows]}
