"""Cross-entropy over a large vocabulary, in chunks of rows: the logits of a batch are never in memory together.

For 8,192 tokens and 50,000 words they would take 1.6 GB in float32, and their gradient as much again. Both functions
here keep a chunk at a time: large enough that the output head, read again for each, is not what takes the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pellucid.model.context import Context, Recorder
from pellucid.model.decoder import Decoder
from pellucid.model.linear import Linear
from pellucid.train.data.batch import IGNORED, Batch
from pellucid.train.objectives.balance import Routers
from pellucid.train.objectives.head_loss import HeadLoss

CHUNK_CELLS = {"cpu": 2**26, "cuda": 2**27}  # logits held at a time: 128 MB in bfloat16; a GPU wants larger products


@dataclass(frozen=True)
class Loss:
    """Sums over the targets that count, so that parts of a batch can be added and divided once."""

    total: Float[Tensor, ""]  # what is differentiated: Σ (nll + z_loss · logsumexp²)
    nll: Float[Tensor, ""]  # Σ −log p(target), detached
    num_targets: int
    balance: Float[Tensor, ""] | None = field(
        default=None, kw_only=True
    )  # Σ of the balance loss without its weight, detached


Forward = Callable[[Tensor, Context], Tensor]  # (token ids (B, T), context) -> hidden states (B, T, D)


def language_loss(
    model: Decoder,
    batch: Batch,
    *,
    z_loss: float = 0.0,
    balance: float = 0.0,
    recorder: Recorder | None = None,
    attention_dropout: float = 0.0,
    forward: Forward | None = None,
    chunk_rows: int | None = None,
) -> Loss:
    """Cross-entropy of each next token, summed: value and gradients as of ``F.cross_entropy(reduction="sum")`` on whole
    logits.

    ``forward`` stands in for ``model.hidden``: the same, compiled.

    ``z_loss`` adds z · (log Σ exp logits)² for each target, which keeps logits near a normalized scale.
    Source: Chowdhery et al. 2022 (PaLM) §5, z-loss.

    ``balance`` adds that many times the balance loss of the batch (``train.balance``) for each target, and returns what
    it was.
    """
    routers = Routers(recorder) if balance else None
    ctx = batch.context(routers or recorder, attention_dropout)
    hidden = (forward or model.hidden)(batch.token_ids, ctx).flatten(0, 1)  # (N, D)
    targets = batch.targets.flatten()
    head = model.head
    rows = chunk_rows or _chunk_rows(model.config.vocab_size, hidden.device)
    if head is None or (type(head) is Linear and head.bias is None):
        hidden = hidden if model.config.logit_scale == 1 else hidden * model.config.logit_scale
        weight = model.embed.weight if head is None else head.weight
        total, nll = HeadLoss.apply(
            hidden, weight, targets, model.config.logit_softcap, z_loss, rows, torch.is_grad_enabled()
        )  # type: ignore[misc]
    else:
        per_token, log_sums = token_nll(model, hidden, targets, ctx, chunk_rows=rows)
        total, nll = per_token.sum() + z_loss * log_sums.square().sum(), per_token.detach().sum()
    if routers is None:
        return Loss(total, nll, batch.num_targets)
    uneven = routers.balance(model.config, batch) * batch.num_targets
    return Loss(total + balance * uneven, nll, batch.num_targets, balance=uneven.detach())


def token_nll(
    model: Decoder,
    hidden: Float[Tensor, "N D"],
    targets: Int[Tensor, "N"],
    ctx: Context,
    *,
    chunk_rows: int | None = None,
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """−log p(target) of each row and log Σ exp logits; both 0 where the target is IGNORED.

    Works with any output head (LoRA's too) and any use of the rows (a preference loss): logits are computed again for
    the backward pass.
    """

    def chunk(rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logits = model.logits(rows, ctx).float()
        log_sum = logits.logsumexp(-1).masked_fill(wanted == IGNORED, 0.0)
        return F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="none"), log_sum

    size = chunk_rows or _chunk_rows(model.config.vocab_size, hidden.device)
    pairs = zip(hidden.split(size), targets.split(size), strict=True)
    parts = [checkpoint(chunk, rows, wanted, use_reentrant=False) for rows, wanted in pairs]
    return torch.cat([nll for nll, _ in parts]), torch.cat([log_sum for _, log_sum in parts])


def _chunk_rows(vocab_size: int, device: torch.device) -> int:
    return max(CHUNK_CELLS.get(device.type, 2**24) // vocab_size, 64)
