"""Multiple choice by likelihood: which answer does the model think the likeliest continuation of the question?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pellucid.base.errors import RequestError
from pellucid.base.files import parse_json, read_text
from pellucid.base.notice import notice
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.text.tokenizer import Tokenizer
from pellucid.train.data.sources import DataError
from pellucid.train.measure.finite import check_finite

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Question:
    question: str
    choices: tuple[str, ...]
    answer: int  # from 0


@dataclass(frozen=True)
class Score:
    """Of a continuation: Σ log p of its tokens in nats, and whether each was the likeliest."""

    log_p: float
    is_greedy: bool


def read_questions(path: Path) -> list[Question]:
    """JSON lines of ``{"question": …, "choices": [two or more], "answer": its number from 0, letter from A, or text}``.

    Raises: DataError naming the line.
    """
    questions = []
    for number, line in enumerate(read_text(path).split("\n"), 1):  # a text may hold other separators of lines
        if line.strip():
            where = f"{path}, line {number}"
            questions.append(_question(parse_json(line, where), where))
    if not questions:
        raise DataError(
            "there are no questions here", where=path, expected="JSON lines with question, choices and answer"
        )
    return questions


def _question(value: Any, where: str) -> Question:
    record = value if isinstance(value, dict) else {}
    question, choices, answer = record.get("question"), record.get("choices"), record.get("answer")
    if (
        not isinstance(question, str)
        or not isinstance(choices, list)
        or len(choices) < 2
        or not all(choice and isinstance(choice, str) for choice in choices)
    ):
        raise DataError(
            "not a question with choices",
            where=where,
            expected='"question": text, "choices": two texts or more',
            received=repr(value)[:200],
        )
    if isinstance(answer, str):  # its own text comes before a letter: a choice may be called "B"
        answer = choices.index(answer) if answer in choices else LETTERS.find(answer.strip().upper() or "?")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        expected = f"0 to {len(choices) - 1}, a letter from A, or a choice's text"
        raise DataError(
            "the answer names none of the choices",
            where=where,
            expected=expected,
            received=json.dumps(record.get("answer"))[:80],
        )
    return Question(question, tuple(choices), answer)


def answer(model: Decoder, tokenizer: Tokenizer, question: Question) -> tuple[int, int]:
    """The choice of the greatest log p, and that of the greatest log p for each of its characters (which does not
    favour short ones).

    Source: EleutherAI's lm-evaluation-harness, ``acc`` and ``acc_norm``; a choice follows its question after a space,
    as there.
    """
    scores = score(model, [encode_pair(tokenizer, question.question, " " + choice) for choice in question.choices])
    log_p = [one.log_p for one in scores]
    by_length = [total / len(choice) for total, choice in zip(log_p, question.choices, strict=True)]
    return log_p.index(max(log_p)), by_length.index(max(by_length))


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """The ids of a context, and of what follows it: spaces between the two belong to the latter, as tokens of words
    begin with them.

    Before the context stands what the tokenizer itself puts before a text, and nothing else: a BOS that it only has a
    name for (a chat format's, often) is none that the model expects there. An empty context has nothing to condition
    on: then BOS stands in, or EOS where there is no BOS.

    Source: lm-evaluation-harness 0.4.13, ``TemplateLM._encode_pair`` and ``loglikelihood``, ``HFLM.tok_encode``.
    Raises: RequestError where the continuation has no tokens, or the first of them nothing before it.
    """
    kept = context.rstrip()
    continuation, context = context[len(kept) :] + continuation, kept
    prefix = prefix_ids(tokenizer, context)
    before, whole = (tokenizer.encode(text, add_special_tokens=False) for text in (context, context + continuation))
    before, after = prefix + whole[: len(before)], whole[len(before) :]
    if not after:
        raise RequestError("an empty continuation cannot be scored", received=repr(context[-40:]))
    if not before:
        first = first_id(tokenizer)
        before, after = ([first], after) if first != after[0] else (after[:1], after[1:])
    return before, after


def prefix_ids(tokenizer: Tokenizer, text: str = "") -> list[int]:
    """What the tokenizer itself puts before a text: BOS, often, or nothing; nothing before a text that begins with BOS
    already.
    """
    if tokenizer.bos_token and text.startswith(tokenizer.bos_token):
        return []
    encoded = tokenizer.encode_texts(["a"], None, add_special_tokens=True, details=True)[0]
    own = next((place for place, part in enumerate(encoded.sequence or ()) if part is not None), 0)
    return encoded.ids[:own]


def first_id(tokenizer: Tokenizer) -> int:
    """The token that an empty context begins with: BOS, or EOS. Raises: RequestError where there is neither."""
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return token_id
    raise RequestError(
        "an empty context cannot be scored: the tokenizer has neither BOS nor EOS to begin it with",
        remedy="put a text before what is scored",
    )


@torch.no_grad()
def score(model: Decoder, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, rows: int = 8) -> list[Score]:
    """log p of each continuation after its context. What exceeds the model's context is left out at the front, with a
    notice.

    Raises: RequestError for a continuation that is longer than the context; NotFiniteError.
    """
    context_len = model.config.context_len
    if longest := max((len(after) for _, after in pairs if len(after) > context_len), default=0):
        raise RequestError(
            "a continuation is longer than the model's context",
            expected=f"at most {context_len} tokens",
            received=longest,
        )
    if any(len(before) + len(after) > context_len + 1 for before, after in pairs):
        notice(f"what exceeds the model's context of {context_len} tokens is left out at the front of what is scored")
    scores: list[Score] = [Score(0.0, True)] * len(pairs)
    by_length = sorted(range(len(pairs)), key=lambda place: -len(pairs[place][0]) - len(pairs[place][1]))
    for first in range(0, len(pairs), rows):
        places = by_length[first : first + rows]
        for place, one in zip(places, _score(model, [pairs[place] for place in places]), strict=True):
            scores[place] = one
    return scores


def _score(model: Decoder, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[Score]:
    rows = [[*context, *continuation][-model.config.context_len - 1 :] for context, continuation in pairs]
    longest = max(len(row) for row in rows) - 1
    ids = torch.zeros(len(rows), max(longest, 1), dtype=torch.int64)  # padded at the end, which no token before it sees
    for number, row in enumerate(rows):
        ids[number, : len(row) - 1] = torch.tensor(row[:-1])
    ids = ids.to(model.device)
    lengths = torch.tensor([[len(row) - 1] for row in rows], device=model.device).expand(ids.shape)  # not the padding's
    ctx = Context(torch.arange(ids.shape[1], device=model.device).expand(ids.shape), lengths=lengths)
    hidden = model.hidden(ids, ctx)  # (B, T, D)
    for number, (row, (_, continuation)) in enumerate(zip(rows, pairs, strict=True)):
        wanted = len(continuation)
        logits = model.logits(hidden[number, len(row) - 1 - wanted : len(row) - 1], ctx).float()  # (wanted, V)
        targets = torch.tensor(row[len(row) - wanted :], device=model.device)
        log_p = logits.log_softmax(-1).gather(1, targets[:, None]).sum().item()
        check_finite(model, ids[number : number + 1, : len(row) - 1], log_p, "the log-probability of a continuation")
        yield Score(log_p, bool((logits.argmax(-1) == targets).all()))
