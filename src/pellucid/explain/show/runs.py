"""Runs that the page shows: a record with what it took and what was asked of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from pellucid.explain.checks import Checks, check
from pellucid.explain.decoding import Generation
from pellucid.explain.prompt import spelled
from pellucid.explain.record import Record


@dataclass
class Run:
    """A record with what the page shows of it."""

    name: str
    record: Record
    text: str
    traced_ms: float | None  # None where it was recorded before it came here
    plain_ms: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    decoding: Generation | None = None

    @property
    def length(self) -> int:
        return self.record.token_ids.shape[1]

    @cached_property
    def checks(self) -> Checks:
        return check(self.record)

    def summary(self, special: set[int]) -> dict[str, Any]:
        """What the page is opened with; ``special``: ids of the tokenizer's special tokens."""
        record, ids = self.record, self.record.tokens[0]
        pieces = [record.piece(i) for i in ids]
        return {
            "run": self.name,
            "text": self.text,
            "tokens": [
                {"id": i, "text": text, "special": i in special, "whole": text == piece}
                for i, piece, text in zip(ids, pieces, spelled(pieces), strict=True)
            ],
            "steps": [{"name": name, "shape": list(value.shape)} for name, value in record.items()],
            "next": likeliest(record["logits"][0, -1], record, 12),
            "edited": "; ".join(str(edit) for edit in record.edits),
            "traced_ms": self.traced_ms,
            "plain_ms": self.plain_ms,
            "bytes": record.nbytes,
        }


def stream(record: Record) -> list[str]:
    """The steps of the residual stream, from the embedding on."""
    return ["layers.0.resid_pre", *(f"layers.{i}.resid_post" for i in range(record.config.num_layers))]


def likeliest(logits: Tensor, record: Record, count: int) -> list[dict[str, Any]]:
    """The likeliest tokens of one distribution, (V,)."""
    best, p = logits.float().topk(min(count, logits.shape[-1])), logits.float().softmax(-1)
    return [
        {"id": i, "text": record.piece(i), "logit": logit, "p": float(p[i])}
        for logit, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
