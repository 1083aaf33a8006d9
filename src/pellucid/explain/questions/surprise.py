"""How surprised the model is by each token: −log p(target), in nats and bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.explain.record import Record


@dataclass(frozen=True)
class Surprise:
    """(B, P) each, P the kept positions; NaN (and −1) where a position has no target."""

    targets: Tensor  # token ids
    probability: Tensor
    nats: Tensor  # cross-entropy with the target
    rank: Tensor  # of the target, 1 for the likeliest
    positions: list[int]

    @property
    def bits(self) -> Tensor:
        return self.nats / math.log(2)

    @property
    def mean_nats(self) -> float:
        return float(self.nats.nanmean())

    @property
    def perplexity(self) -> float:
        """How many equally likely tokens would leave one as unsure."""
        return math.exp(self.mean_nats)

    def to_json(self) -> dict[str, Any]:
        def plain(values: Tensor) -> list[list[float | None]]:
            return [[None if math.isnan(value) else value for value in row] for row in values.tolist()]

        return {
            "positions": self.positions,
            "targets": self.targets.tolist(),
            "probability": plain(self.probability),
            "nats": plain(self.nats),
            "bits": plain(self.bits),
            "rank": self.rank.tolist(),
            "mean_nats": None if math.isnan(self.mean_nats) else self.mean_nats,
            "perplexity": None if math.isnan(self.mean_nats) else self.perplexity,
        }


@torch.no_grad()
def surprise(trace: Record, targets: Any = None) -> Surprise:
    """The cross-entropy of each position's prediction with a target.

    ``targets``: None for the token that comes next in the text; a token id or a text that is one token, for what should
    follow the last position; or ids for every token of the text (B, T), −1 for none.
    """
    columns = torch.tensor(trace.positions, device=trace.token_ids.device)
    wanted = _targets(trace, targets)[:, columns]  # (B, P)
    log_probs = trace["logits"].float().log_softmax(-1)
    target = log_probs.gather(-1, wanted.clamp(min=0)[..., None])
    nats = torch.where(wanted < 0, torch.nan, -target[..., 0])
    rank = torch.where(wanted < 0, -1, (log_probs > target).sum(-1) + 1)
    return Surprise(wanted, (-nats).exp(), nats, rank, trace.positions)


def one_token(trace: Record, token: str | int) -> int:
    """A token's id. Raises: RequestError for a text that is not one token, and an id out of range."""
    if isinstance(token, str):
        tokenizer = trace.prompt.tokenizer
        ids = [] if tokenizer is None else tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise RequestError(
                f"{token!r} is not one token",
                received=ids,
                remedy="give a text that is one token (a space may count), or an id",
            )
        token = int(ids[0])
    if not 0 <= token < trace.config.vocab_size:
        raise RequestError("there is no such token", expected=f"0 to {trace.config.vocab_size - 1}", received=token)
    return token


def _targets(trace: Record, targets: Any) -> Tensor:
    ids, mask = trace.token_ids, trace.mask
    following = torch.full_like(ids, -1)
    both = mask[:, :-1] & mask[:, 1:]
    following[:, :-1] = torch.where(both, ids[:, 1:], -1)
    if targets is None:
        return following
    if isinstance(targets, str | int):
        last = torch.where(mask, torch.arange(ids.shape[1], device=ids.device), -1).amax(1)
        following[torch.arange(len(ids)), last] = one_token(trace, targets)
        return following
    rows = torch.as_tensor(targets, device=ids.device)
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.shape != ids.shape:
        raise RequestError("targets need an id for every token", expected=tuple(ids.shape), received=tuple(rows.shape))
    return rows.long()
