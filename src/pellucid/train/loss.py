"""Cross-entropy over a large vocabulary, in chunks of rows: the float32 logits of a batch are never in memory together.

For 8,192 tokens and 50,000 words they would take 1.6 GB, and their gradient as much again. Both functions here keep a chunk at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pellucid.model.context import Context, Recorder
from pellucid.model.decoder import Decoder
from pellucid.model.linear import Linear
from pellucid.train.batch import IGNORED, Batch

CHUNK_CELLS = {"cpu": 2**21, "cuda": 2**27}  # logits held at a time: 8 MB stays in a CPU's caches; a GPU wants large products


@dataclass(frozen=True)
class Loss:
    """Sums over the targets that count, so that parts of a batch can be added and divided once."""

    total: Float[Tensor, ""]  # what is differentiated: Σ (nll + z_loss · logsumexp²)
    nll: Float[Tensor, ""]  # Σ −log p(target), detached
    num_targets: int


Forward = Callable[[Tensor, Context], Tensor]  # (token ids (B, T), context) -> hidden states (B, T, D)


def language_loss(
    model: Decoder,
    batch: Batch,
    *,
    z_loss: float = 0.0,
    recorder: Recorder | None = None,
    forward: Forward | None = None,
    chunk_rows: int | None = None,
) -> Loss:
    """Cross-entropy of each next token, summed: value and gradients as of ``F.cross_entropy(reduction="sum")`` on whole logits.

    ``forward`` stands in for ``model.hidden``: the same, compiled.

    ``z_loss`` adds z · (log Σ exp logits)² for each target, which keeps logits near a normalized scale.
    Source: Chowdhery et al. 2022 (PaLM) §5, z-loss.
    """
    ctx = batch.context(recorder)
    hidden = (forward or model.hidden)(batch.token_ids, ctx).flatten(0, 1)  # (N, D)
    targets = batch.targets.flatten()
    head = model.lm_head
    rows = chunk_rows or _chunk_rows(model.config.vocab_size, hidden.device)
    if head is None or type(head) is Linear:
        weight = model.embed.weight if head is None else head.weight
        total, nll = _HeadLoss.apply(hidden, weight, targets, model.config.logit_softcap, z_loss, rows, torch.is_grad_enabled())  # type: ignore[misc]
    else:
        per_token, log_sums = token_nll(model, hidden, targets, ctx, chunk_rows=rows)
        total, nll = per_token.sum() + z_loss * log_sums.square().sum(), per_token.detach().sum()
    return Loss(total, nll, batch.num_targets)


def token_nll(
    model: Decoder, hidden: Float[Tensor, "N D"], targets: Int[Tensor, "N"], ctx: Context, *, chunk_rows: int | None = None
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """−log p(target) of each row and log Σ exp logits; both 0 where the target is IGNORED.

    Works with any output head (LoRA's too) and any use of the rows (a preference loss): logits are computed again for the backward pass.
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


class _HeadLoss(torch.autograd.Function):
    """Output head and loss in one. The gradients of a chunk are computed while its logits are at hand, so nothing is computed twice.

    With p = softmax(logits): ∂nll/∂logits = p − onehot(target), ∂logsumexp²/∂logits = 2 · logsumexp · p, and a soft-cap
    c · tanh(x / c) multiplies by 1 − tanh²(x / c).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "N D"],
        weight: Float[Tensor, "V D"],
        targets: Int[Tensor, "N"],
        softcap: float | None,
        z_loss: float,
        chunk_rows: int,
        wants_gradients: bool,
    ) -> tuple[Tensor, Tensor]:
        counted = (targets != IGNORED).nonzero()[:, 0]
        everything = len(counted) == len(targets)
        rows, wanted = (hidden, targets) if everything else (hidden[counted], targets[counted])
        d_rows = torch.empty_like(rows) if wants_gradients and ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_gradients and ctx.needs_input_grad[1] else None
        total, nll = hidden.new_zeros((), dtype=torch.float32), hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(rows), chunk_rows):
            h, target = rows[start : start + chunk_rows], wanted[start : start + chunk_rows, None]
            logits = (h @ weight.mT).float()  # (rows of the chunk, V)
            slope = None
            if softcap is not None:
                bent = logits.div_(softcap).tanh_()
                logits, slope = bent * softcap, bent.square_().neg_().add_(1)
            log_sum = logits.logsumexp(-1, keepdim=True)
            its = (log_sum - logits.gather(1, target)).sum()
            nll += its
            total += its + z_loss * log_sum.square().sum() if z_loss else its
            if d_rows is None and d_weight is None:
                continue
            d_logits = logits.sub_(log_sum).exp_()  # p
            if z_loss:
                d_logits *= 1 + 2 * z_loss * log_sum
            d_logits.scatter_add_(1, target, torch.full_like(log_sum, -1.0))
            if slope is not None:
                d_logits *= slope
            d_logits = d_logits.to(h.dtype)
            if d_rows is not None:
                d_rows[start : start + chunk_rows] = d_logits @ weight
            if d_weight is not None:
                d_weight += d_logits.mT @ h
        if d_rows is not None and not everything:
            d_rows = torch.zeros_like(hidden).index_copy_(0, counted, d_rows)
        ctx.save_for_backward(d_rows, None if d_weight is None else d_weight.to(weight.dtype))
        ctx.mark_non_differentiable(nll)
        return total, nll

    @staticmethod
    def backward(ctx: Any, d_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        d_hidden, d_weight = ctx.saved_tensors
        return (
            None if d_hidden is None else d_hidden * d_total,
            None if d_weight is None else d_weight * d_total,
            *(None,) * 5,
        )
