"""Beam search: the likeliest texts rather than the likeliest tokens.

A beam is a text that is still growing; of all ways to go on from all beams the best are kept. A finished text's score
is the sum of its tokens' log-probabilities over length^``length_penalty``. When to stop, and what counts as finished,
is as in transformers' search, so that the texts are the same. Source: Sutskever et al. 2014 §3.2; Wu et al. 2016 §7.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.causal_lm.rows import Rows

NEVER = -1.0e9


@dataclass(frozen=True)
class Beam:
    """A finished text: its new tokens, and its score."""

    token_ids: tuple[int, ...]
    score: float
    finished: bool


@dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """``process``: (ids so far, their log-probabilities (K, V)) → the same, as rules want them."""

    num_beams: int
    max_new_tokens: int
    ends: Collection[int]
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    process: Callable[[list[list[int]], Tensor], Tensor]
    stopped: Callable[[list[int]], bool] = lambda ids: False

    def search(self, rows: Rows, logits: Tensor) -> list[Beam]:
        """The best finished texts of one prompt, best first; ``rows`` are ``num_beams`` copies of it, ``logits``
        (1, V) those that follow it.
        """
        prompt, k = len(rows.ids[0]), self.num_beams
        logits = logits.expand(k, -1)
        scores = torch.full((k,), NEVER)
        scores[0] = 0.0
        done: list[Beam] = []
        improvable, keep = True, max(2, 1 + len(self.ends)) * k
        for length in range(1, self.max_new_tokens + 1):
            ahead = self.process(rows.ids, logits.cpu().log_softmax(-1)) + scores[:, None]  # (K, V)
            best, places = ahead.flatten().topk(min(keep, ahead.numel()))
            parents, tokens = (places // ahead.shape[1]).tolist(), (places % ahead.shape[1]).tolist()
            texts = [[*rows.ids[parent], token] for parent, token in zip(parents, tokens, strict=True)]
            ended = [
                token in self.ends or length == self.max_new_tokens or self.stopped(text)
                for token, text in zip(tokens, texts, strict=True)
            ]
            full = len(done) == k and all(beam.finished for beam in done) and self.early_stopping is True
            if improvable and not full:
                new = [
                    Beam(tuple(text[prompt:]), float(score) / length**self.length_penalty, True)
                    for text, score, end in zip(texts[:k], best[:k], ended[:k], strict=True)
                    if end
                ]
                done = sorted([*done, *new], key=lambda beam: -beam.score)[:k]
            going = [i for i, end in enumerate(ended) if not end][:k]
            if not going:
                break
            going += [i for i in range(len(ended)) if i not in going][: k - len(going)]
            scores = torch.stack([best[i] + (NEVER if ended[i] else 0.0) for i in going])
            improvable = improvable and self._may_improve(float(scores[0]), done, length)
            if not improvable or (
                self.early_stopping is True and len(done) == k and all(beam.finished for beam in done)
            ):
                break
            rows.become([parents[i] for i in going])
            logits = rows.append([tokens[i] for i in going])
        return done

    def _may_improve(self, running: float, done: list[Beam], length: int) -> bool:
        """Whether the best beam may yet be better than the worst finished text."""
        longest = self.early_stopping == "never" and self.length_penalty > 0
        best = running / (self.max_new_tokens if longest else length) ** self.length_penalty
        worst = [beam.score for beam in done] + [NEVER] * (self.num_beams - len(done))
        finished = [beam.finished for beam in done] + [False] * (self.num_beams - len(done))
        lowest = min(worst)
        return any(best > (lowest if end else NEVER) for end in finished)
