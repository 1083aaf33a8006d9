"""What the page has the model do anew: edits of a run, another model on the same text, one's own continuation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from pellucid.base.errors import RequestError
from pellucid.explain.edits import Ablate, Edit, Patch, SwapToken
from pellucid.explain.prompt import raw_bytes
from pellucid.explain.questions.surprise import surprise
from pellucid.explain.record import Record
from pellucid.explain.run import record
from pellucid.explain.show.runs import Run, likeliest, stream
from pellucid.explain.subject import Subject

MAX_TEXT = 20_000


def text_in(body: Mapping[str, Any], key: str) -> str:
    """Raises: RequestError where it is no text, or too long a one."""
    text = body.get(key)
    if not isinstance(text, str) or not text or len(text) > MAX_TEXT:
        raise RequestError(f"{key} must be a text", expected=f"1 to {MAX_TEXT} characters")
    return text


def edit_in(subject: Subject, edit: Mapping[str, Any]) -> Edit | SwapToken:
    """The edit that the page describes. Raises: RequestError."""
    kind, where, positions = edit.get("kind"), str(edit.get("where", "")), edit.get("positions")
    positions = None if positions is None else [int(i) for i in positions]
    if kind == "ablate":
        return Ablate(where, head=None if edit.get("head") is None else int(edit["head"]), positions=positions)
    if kind == "patch":
        other = record(subject.decoder, subject.tokenizer, text_in(edit, "text"), steps=[where])
        return Patch(where, other, positions=positions)
    if kind == "swap":
        token = str(edit.get("token", ""))
        return SwapToken(int(edit.get("position", 0)), int(token) if token.strip().isdigit() else token)
    raise RequestError(f"there is no edit {kind!r}", expected="ablate, patch or swap")


@torch.no_grad()
def difference(run: Run, new: Run) -> dict[str, Any]:
    """What an edit did: the prediction before and after, and how far the stream moved."""
    before, after = run.record, new.record
    p, q = (kept["logits"][0, -1].float().log_softmax(-1) for kept in (before, after))
    ids = set(p.topk(8).indices.tolist()) | set(q.topk(8).indices.tolist())
    names = stream(before)
    lengths = [torch.linalg.vector_norm(before[name][0].float(), dim=-1) for name in names]
    change = [
        torch.linalg.vector_norm((after[name] - before[name])[0].float(), dim=-1) / length.clamp(min=1e-12)
        for name, length in zip(names, lengths, strict=True)
    ]
    return {
        "run": new.name,
        "label": "; ".join(str(edit) for edit in after.edits),
        "before": likeliest(before["logits"][0, -1], before, max(8, len(ids))),
        "after": likeliest(after["logits"][0, -1], after, max(8, len(ids))),
        "kl": float((p.exp() * (p - q)).sum().clamp(min=0)),
        "names": names,
        "change": [row.clamp(max=1).tolist() for row in change],
    }


@torch.no_grad()
def beside(run: Run, other: Subject) -> dict[str, Any]:
    """Another model on the same text: what it says next, and how surprised either is."""
    mine = run.record
    theirs = other.record(run.text, steps=["logits"]) if other.native is None else other.record(run.text)
    nats = [surprise(kept).mean_nats if kept.token_ids.shape[1] > 1 else None for kept in (mine, theirs)]
    bits = [None if mean is None else _bits_a_byte(kept, mean) for kept, mean in zip((mine, theirs), nats, strict=True)]
    by_position = None
    if mine.tokens == theirs.tokens and run.length > 1:
        rows = zip(mine.tokens[0][1:], *(surprise(kept).nats[0].tolist() for kept in (mine, theirs)), strict=False)
        by_position = [[mine.piece(i), a, b] for i, a, b in rows][:60]
    return {
        "nats": nats,
        "bits_a_byte": bits,
        "same_tokens": mine.tokens == theirs.tokens,
        "next": [likeliest(kept["logits"][0, -1], kept, 8) for kept in (mine, theirs)],
        "nats_by_position": by_position,
    }


def _bits_a_byte(record: Record, mean_nats: float) -> float | None:
    """What a token costs, by the bytes that it spells: comparable between vocabularies, as nats a token are not."""
    told = record.tokens[0][1:]
    size = sum(len(raw_bytes(record.piece(i))) for i in told)
    return mean_nats * len(told) / math.log(2) / size if size else None


@torch.no_grad()
def surprise_of_continuation(subject: Subject, run: Run, target: str) -> dict[str, Any]:
    """How surprising one's own continuation of the text is, token by token."""
    added = subject.tokenizer(target, add_special_tokens=False)["input_ids"]
    if not added:
        raise RequestError("the continuation has no tokens")
    logits = subject.logits(run.record.tokens[0] + added, run.length - 1)[0][:-1].float()
    nats = F.cross_entropy(logits, torch.tensor(added, device=logits.device), reduction="none").tolist()
    return {
        "mean": sum(nats) / len(nats),
        "tokens": [
            {"id": i, "text": run.record.piece(i), "nats": n, "p": math.exp(-n)}
            for i, n in zip(added, nats, strict=True)
        ],
    }


def next_token(subject: Subject, run: Run, body: Mapping[str, Any]) -> dict[str, Any]:
    """One more token after the run's text and what was made since, with what it took and what the cache holds."""
    made, token = [int(i) for i in body.get("ids", [])], body.get("token")
    if run.decoding is None:
        run.decoding = subject.decoding(run.record.tokens[0])
    prefill = run.decoding.catch_up(made)
    done = run.decoding.step(float(body.get("temperature", 0.0)), None if token is None else int(token))
    return {
        "token": {
            "id": done.token,
            "text": run.record.piece(done.token),
            "p": done.probability,
            "ms": done.milliseconds,
            "next": likeliest(done.logits, run.record, 8),
            "end": done.token in subject.decoder.config.eos_token_ids,
        },
        "prefill": None if prefill is None else {"tokens": prefill.tokens, "ms": prefill.milliseconds},
        "cache": run.decoding.held(),
    }
