"""What a prediction hung on: how likely the token would have been, had a word before it been out of sight.

Nothing is approximated: each number is a run of the model in which no later token can look at the one that is hidden,
in any layer (its place stays, and it still sees itself).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pellucid.base.errors import RequestError
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder

TOKENS = 2048  # in a batch at a time


@dataclass(frozen=True)
class Hiding:
    """``without[i]``: log-probability of the token where the one at ``positions[i]`` is hidden; ``plain``: where none
    is.
    """

    token: int
    positions: list[int]
    plain: float
    without: list[float]


@torch.no_grad()
def hiding(
    model: Decoder, token_ids: Sequence[int], token: int, *, positions: Sequence[int], tokens: int = TOKENS
) -> Hiding:
    """How likely ``token`` is after ``token_ids``, and how likely with each of ``positions`` hidden alone.

    Raises: RequestError for a position out of range, or a model in which tokens are reached otherwise than by looking
    at them.
    """
    length = len(token_ids)
    if wrong := [position for position in positions if not 0 <= position < length]:
        raise RequestError("there is no such position", expected=f"0 to {length - 1}", received=wrong[0])
    if any(
        layer.attends is None or layer.attends.chunk is not None or layer.beside is not None
        for layer in model.config.layers
    ):
        raise RequestError(
            "a token cannot be hidden in this model: not all of its layers look at tokens one by one",
            where=model.config.model_type,
        )
    ids, at_once = torch.tensor([list(token_ids)], device=model.device), max(1, tokens // length)
    hidden: list[int | None] = [None, *positions]
    found: list[float] = []
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(hidden), at_once):
            found += _run(model, ids, hidden[start : start + at_once], token)
    finally:
        model.train(was_training)
    return Hiding(token, list(positions), found[0], found[1:])


def _run(model: Decoder, ids: torch.Tensor, hidden: Sequence[int | None], token: int) -> list[float]:
    seen = torch.ones(len(hidden), ids.shape[1], dtype=torch.bool, device=ids.device)
    for row, position in enumerate(hidden):
        if position is not None:
            seen[row, position] = False
    places = torch.arange(ids.shape[1], device=ids.device).expand(len(hidden), -1)
    ctx = Context(places, key_mask=seen)
    logits = model.logits(model.hidden(ids.expand(len(hidden), -1), ctx)[:, -1], ctx)  # (rows, V)
    return logits.float().log_softmax(-1)[:, token].tolist()
