"""A contrast: two answers that the model chooses between at one place, named as one would write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.explain.prompt import Prompt
from pellucid.explain.record import Record

Answer = int | str


@dataclass(frozen=True)
class Contrast:
    """Token ``a`` rather than ``b``, after the token at ``position``."""

    position: int
    a: int
    b: int

    def of(self, logits: Tensor) -> Tensor:
        """logit(a) − logit(b); (…, V) → (…)"""
        return (logits[..., self.a] - logits[..., self.b]).float()

    def to_json(self, record: Record) -> dict[str, Any]:
        logits = record["logits"][0, record.column("logits", self.position)].float()
        p = logits.softmax(-1)

        def answer(i: int) -> dict[str, Any]:
            rank = int((logits > logits[i]).sum()) + 1
            return {"id": i, "text": record.piece(i), "logit": float(logits[i]), "p": float(p[i]), "rank": rank}

        return {
            "position": self.position,
            "a": answer(self.a),
            "b": answer(self.b),
            "gap": float(self.of(logits)),
            "likeliest": record.piece(int(logits.argmax())),
        }


@torch.no_grad()
def contrast(record: Record, a: Answer | None = None, b: Answer | None = None, position: int = -1) -> Contrast:
    """The contrast of two answers; by default, of the likeliest and the likeliest other one.

    Raises: RequestError for an answer that is no token, or for the same one twice; NotRecordedError without logits.
    """
    column = record.column("logits", position)
    logits = record["logits"][0, column].float()
    best = logits.topk(min(2, len(logits))).indices.tolist()
    first = best[0] if a is None else answer_of(record.prompt, a, logits)
    if b is None:
        second = best[1] if first == best[0] else best[0]
    else:
        second = answer_of(record.prompt, b, logits)
    if first == second:
        raise RequestError("the two answers are the same token", received=f"{first} {record.piece(first)!r}")
    return Contrast(record.positions[column], first, second)


def answer_of(prompt: Prompt, answer: Answer, logits: Tensor) -> int:
    """The token that an answer begins with: an id, or a text that is one token.

    A word without a space before it may be written with or without one in the vocabulary: then it is the one that the
    model finds likelier here. Raises: RequestError for what is not one token.
    """
    if isinstance(answer, int):
        if not 0 <= answer < len(logits):
            raise RequestError("there is no such token", expected=f"0 to {len(logits) - 1}", received=answer)
        return answer
    if prompt.tokenizer is None:
        raise RequestError("an answer in words needs a tokenizer", remedy="give a token id", received=answer)
    spellings = [answer] if answer[:1].isspace() else [answer, f" {answer}"]
    cuts = [prompt.tokenizer(text, add_special_tokens=False)["input_ids"] for text in spellings]
    single = [ids[0] for ids in cuts if len(ids) == 1]
    if not single:
        pieces = " + ".join(repr(prompt.piece(i)) for i in cuts[-1])
        raise RequestError(
            f"{answer!r} is not one token but {len(cuts[-1])}",
            received=pieces or "nothing",
            remedy=f"name its first: {prompt.piece(cuts[-1][0])!r}" if cuts[-1] else "type a word",
        )
    return max(single, key=lambda i: float(logits[i]))
