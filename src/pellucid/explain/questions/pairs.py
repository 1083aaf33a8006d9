"""A second sentence to hold beside the reader's own: one word of it another, so that the model answers otherwise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pellucid.explain.questions.contrast import Contrast
from pellucid.explain.record import Record
from pellucid.model.context import Context

NEAR = 3  # words tried in the place of each
PLACES = 10  # of the text, the last ones
MOST = 4096  # tokens in the batch


@dataclass(frozen=True)
class Pair:
    """``token_ids`` differ from the record's at ``place`` alone; ``contrast``: what either text is answered with."""

    token_ids: list[int]
    place: int
    contrast: Contrast


@torch.no_grad()
def proposed_pair(record: Record) -> Pair | None:
    """Of many sentences that differ in one word, the one whose answer differs most clearly; None for a single token.

    Words are tried that the embedding table has nearest to the one that is there. Each sentence is run; the choice is
    the one in which the model prefers its own answer to the other's by most, on the weaker of the two sides.
    """
    ids, special = record.tokens[0], set(getattr(record.prompt.tokenizer, "all_special_ids", None) or ())
    last = len(ids) - 1
    places = [t for t in range(max(0, last - PLACES), last) if ids[t] not in special]
    tried = [
        (t, token) for t, near in zip(places, _near(record, [ids[t] for t in places]), strict=True) for token in near
    ]
    tried = tried[: max(1, MOST // len(ids))]
    if not tried:
        return None
    rows = torch.tensor([[*ids[:t], token, *ids[t + 1 :]] for t, token in tried], device=record.model.device)
    ctx = Context(torch.arange(len(ids), device=rows.device)[None].expand(len(rows), -1))
    others = record.model.logits(record.model.hidden(rows, ctx)[:, -1], ctx).float()  # (N, V)
    ours = record["logits"][0, record.column("logits", last)].float()
    a, answers = int(ours.argmax()), others.argmax(-1)
    clear = torch.minimum(ours[a] - ours[answers], others.gather(1, answers[:, None])[:, 0] - others[:, a])
    alike = [_stem(record.piece(ids[t])) == _stem(record.piece(token)) for t, token in tried]
    clear = clear * torch.tensor([3.0 if same else 1.0 for same in alike], device=clear.device)  # key, keys: the least
    best = int(clear.argmax())
    b = int(answers[best])
    if b == a:  # nothing changes the answer: the second one then, and the word that matters most to it
        b = int(ours.topk(2).indices[1])
        best = int(((ours[a] - ours[b]) - (others[:, a] - others[:, b])).abs().argmax())
    place, token = tried[best]
    return Pair([*ids[:place], token, *ids[place + 1 :]], place, Contrast(last, a, b))


def _near(record: Record, tokens: Sequence[int]) -> list[list[int]]:
    """For each token, words like it: as it is written (a space before it or none, letters of the same script), and not
    the same but for case.
    """
    if not tokens:
        return []
    table = record.model.embed.weight
    rows = table[list(tokens)]
    lengths = torch.linalg.vector_norm(table, dim=-1).clamp(min=1e-9)
    likeness = (rows @ table.T) / lengths  # of one row: cosines but for its own length
    near: list[list[int]] = []
    for token, ids in zip(tokens, likeness.topk(min(48, len(table))).indices.tolist(), strict=True):
        piece = record.piece(token)
        word = piece.strip().lower()
        like = [
            i
            for i in ids
            if word[:1].isalpha()
            and _shape(other := record.piece(i)) == _shape(piece)
            and other.strip().lower() != word
        ]
        near.append(like[:NEAR])
    return near


def _shape(piece: str) -> str:
    """Its characters by kind: a space, then letters of one script."""
    kinds = re.sub("[A-Z]", "A", re.sub("[a-z]", "a", piece))
    kinds = re.sub("[\u4e00-\u9fff]", "字", kinds)
    return re.sub(r"(.)\1+", r"\1", kinds)


def _stem(piece: str) -> str:
    """A word without its last letters: key and keys are one."""
    word = piece.strip().lower()
    return word[: max(3, len(word) - 2)]
