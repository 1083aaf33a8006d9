"""What a call may forbid as an answer grows: rules (texts so far (B, T), scores (B, V)) → scores."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.base.errors import RequestError

Rule = Callable[[Int[Tensor, "B T"], Float[Tensor, "B V"]], Float[Tensor, "B V"]]


def not_yet(ends: Collection[int], length: int) -> Rule:
    """No end before the text has ``length`` tokens."""
    places = torch.tensor(sorted(ends), dtype=torch.long)

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, places.to(scores.device), -torch.inf) if ids.shape[1] < length else scores

    return rule


def no_repeated(size: int) -> Rule:
    """No run of ``size`` tokens twice. Source: Paulus et al. 2017 §2.5."""

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        for row, text in enumerate(ids.tolist()):
            last = text[len(text) - size + 1 :]
            following = [text[i + size - 1] for i in range(len(text) - size + 1) if text[i : i + size - 1] == last]
            scores[row, following] = -torch.inf
        return scores

    return rule


def never(words: Sequence[Sequence[int]], vocab_size: int) -> Rule:
    """None of these sequences: the last token of each is forbidden where those before it stand."""
    wrong = [word for word in words if not word or not all(0 <= token < vocab_size for token in word)]
    if wrong:
        raise RequestError("bad_words_ids holds what are no tokens of this model", received=str(wrong[0]))

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        for row, text in enumerate(ids.tolist()):
            for *before, last in words:
                if not before or text[-len(before) :] == before:
                    scores[row, last] = -torch.inf
        return scores

    return rule


def only(allowed: Callable[[int, Tensor], Any], per_prompt: int) -> Rule:
    """``prefix_allowed_tokens_fn``: (number of the prompt, text so far) → the tokens that may follow."""

    def rule(ids: Tensor, scores: Tensor) -> Tensor:
        kept = torch.full_like(scores, -torch.inf)
        for row, text in enumerate(ids):
            if not (tokens := list(allowed(row // per_prompt, text))):
                raise RequestError("prefix_allowed_tokens_fn allows no token", received=f"after {len(text)} tokens")
            kept[row, tokens] = scores[row, tokens]
        return kept

    return rule
