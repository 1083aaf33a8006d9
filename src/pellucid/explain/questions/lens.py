"""The logit lens: what the model would say if it stopped after each layer.

Source: nostalgebraist 2020, "interpreting GPT: the logit lens". The stream after a layer goes through the final norm
and the output layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.explain.record import Record
from pellucid.model.context import Context

ROWS = 64  # positions whose whole vocabulary is in memory at a time


@dataclass(frozen=True)
class Lens:
    """Sizes: L rows (``names``; the first is the embedding, the last what the model says), B texts, P positions, K
    tokens.
    """

    trace: Record
    names: list[str]
    positions: list[int]
    top_ids: Tensor  # (L, B, P, K), the likeliest first
    top_probabilities: Tensor  # (L, B, P, K)
    chosen: Tensor  # (B, P) the token that is followed: the model's own choice, unless given
    chosen_probability: Tensor  # (L, B, P)
    rank: Tensor  # (L, B, P) of the chosen token, 1 for the likeliest
    kl: Tensor  # (L, B, P) nats, KL(final ‖ this layer)
    entropy: Tensor  # (L, B, P) nats, of this layer's guess

    def to_json(self) -> dict[str, Any]:
        return {
            "names": self.names,
            "positions": self.positions,
            "top_ids": self.top_ids.tolist(),
            "top_pieces": [[[[self.trace.piece(i) for i in k] for k in p] for p in b] for b in self.top_ids.tolist()],
            "top_probabilities": self.top_probabilities.tolist(),
            "chosen": self.chosen.tolist(),
            "chosen_pieces": [[self.trace.piece(i) for i in row] for row in self.chosen.tolist()],
            "chosen_probability": self.chosen_probability.tolist(),
            "rank": self.rank.tolist(),
            "kl": self.kl.tolist(),
            "entropy": self.entropy.tolist(),
        }


@torch.no_grad()
def lens(
    trace: Record, *, positions: Sequence[int] | None = None, tokens: Tensor | int | None = None, k: int = 5
) -> Lens:
    """Layer by layer, the next token as the stream has it so far.

    ``positions``: all kept ones, unless chosen. ``tokens``: the token to follow, by default the model's choice at each
    position. Needs ``resid_post`` of the layers to show and ``logits``. Raises: NotRecordedError where they were left
    out.
    """
    names = [
        name
        for name in ("layers.0.resid_pre", *(f"layers.{i}.resid_post" for i in range(trace.config.num_layers)))
        if name in trace
    ]
    final_logits = trace["logits"]
    kept = (
        trace.positions
        if positions is None
        else [trace.positions[trace.column("logits", position)] for position in positions]
    )
    columns = [trace.column("logits", position) for position in kept]
    if not names:
        raise RequestError("the lens needs the stream", remedy="trace with steps=['resid_post', 'logits']")
    k = min(k, trace.config.vocab_size)
    chosen = (
        final_logits[:, columns].argmax(-1)
        if tokens is None
        else torch.as_tensor(tokens, device=final_logits.device).expand(len(final_logits), len(columns))
    )
    rows: dict[str, list[Tensor]] = {name: [] for name in ("ids", "probabilities", "chosen", "rank", "kl", "entropy")}
    for name in names:
        read = [
            _read(trace, name, columns[start : start + ROWS], chosen[:, start : start + ROWS], k)
            for start in range(0, len(columns), ROWS)
        ]
        for key, parts in zip(rows, zip(*read, strict=True), strict=True):
            rows[key].append(torch.cat(parts, 1))
    stacked = {key: torch.stack(parts) for key, parts in rows.items()}
    return Lens(
        trace,
        names,
        kept,
        stacked["ids"],
        stacked["probabilities"],
        chosen,
        stacked["chosen"],
        stacked["rank"],
        stacked["kl"],
        stacked["entropy"],
    )


def _read(trace: Record, name: str, columns: Sequence[int], chosen: Tensor, k: int) -> tuple[Tensor, ...]:
    model, stream = trace.model, trace[name][:, list(columns)]
    hidden = stream if model.final_norm is None else model.final_norm(stream)
    log_probs = model.logits(hidden, Context(trace.position_ids)).float().log_softmax(-1)  # (B, P, V)
    final = trace["logits"][:, list(columns)].float().log_softmax(-1)
    top = log_probs.topk(k, -1)
    followed = log_probs.gather(-1, chosen[..., None])
    rank = (log_probs > followed).sum(-1) + 1
    kl = (final.exp() * (final - log_probs)).sum(-1).clamp(min=0)
    entropy = -(log_probs.exp() * log_probs).nan_to_num(0.0).sum(-1)
    return top.indices, top.values.exp(), followed[..., 0].exp(), rank, kl, entropy
