"""Cross-entropy over a large vocabulary, in chunks of rows: the logits of a batch are never in memory together.

For 8,192 tokens and 50,000 words they would take 1.6 GB in float32, and their gradient as much again. Both functions here keep a chunk at a
time: large enough that the output head, read again for each, is not what takes the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import repeat
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

CHUNK_CELLS = {"cpu": 2**25, "cuda": 2**27}  # logits held at a time: 64 MB in bfloat16; a GPU wants larger products
CACHED_CELLS = 2**18  # of these a CPU core turns into gradients at a time: 1 MB of float32 stays in its cache


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
    attention_dropout: float = 0.0,
    forward: Forward | None = None,
    chunk_rows: int | None = None,
) -> Loss:
    """Cross-entropy of each next token, summed: value and gradients as of ``F.cross_entropy(reduction="sum")`` on whole logits.

    ``forward`` stands in for ``model.hidden``: the same, compiled.

    ``z_loss`` adds z · (log Σ exp logits)² for each target, which keeps logits near a normalized scale.
    Source: Chowdhery et al. 2022 (PaLM) §5, z-loss.
    """
    ctx = batch.context(recorder, attention_dropout)
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


def _cached_rows(logits: Tensor) -> int:
    return max(CACHED_CELLS * torch.get_num_threads() // logits.shape[1], 1) if logits.device.type == "cpu" else len(logits)


def _split(rows: Tensor | None, size: int) -> Iterable[Tensor | None]:
    return repeat(None) if rows is None else rows.split(size)


def _score(logits: Tensor, targets: Tensor, softcap: float | None, z_loss: float, wants_gradients: bool) -> tuple[Tensor, Tensor]:
    """Σ nll and Σ logsumexp² of some rows, in float32; their gradients ∂total/∂logits then take the logits' place."""
    wide, slope = logits.float(), None
    if softcap is not None:
        bent = torch.tanh(wide / softcap)
        wide, slope = bent * softcap, 1 - bent.square()
    log_p = F.log_softmax(wide, -1)
    its = log_p.gather(1, targets)
    log_sum = wide.gather(1, targets) - its
    nll = -its.sum()
    if wants_gradients:
        d_logits = log_p.exp_()  # p
        if z_loss:
            d_logits *= 1 + 2 * z_loss * log_sum
        d_logits.scatter_add_(1, targets, torch.full_like(log_sum, -1.0))
        if slope is not None:
            d_logits *= slope
        logits.copy_(d_logits)
    return nll, log_sum.square().sum()


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
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        counted = (targets != IGNORED).nonzero()[:, 0]
        everything = len(counted) == len(targets)
        rows, wanted = (hidden, targets) if everything else (hidden[counted], targets[counted])
        d_rows = torch.empty_like(rows) if wants_gradients and ctx.needs_input_grad[0] else None
        d_weight: Tensor | None = None
        learns = wants_gradients and ctx.needs_input_grad[1]
        total, nll = hidden.new_zeros((), dtype=torch.float32), hidden.new_zeros((), dtype=torch.float32)
        with torch.autocast(device, enabled=False):  # cast once, here: autocast would cast the whole head again for each chunk
            head = weight.to(dtype)
            for h, target, d_h in zip(*(_split(part, chunk_rows) for part in (rows, wanted[:, None], d_rows)), strict=False):
                h = h.to(dtype)
                logits = h @ head.mT  # (rows of the chunk, V)
                for some, theirs in zip(*(part.split(_cached_rows(logits)) for part in (logits, target)), strict=True):
                    its, squares = _score(some, theirs, softcap, z_loss, learns or d_h is not None)
                    nll += its
                    total += its + z_loss * squares
                if d_h is not None:
                    d_h.copy_(logits @ head)  # the logits are their gradients by now
                if learns:
                    its = logits.mT @ h
                    d_weight = its.float() if d_weight is None else d_weight.add_(its)
        if d_rows is not None and not everything:
            d_rows = torch.zeros_like(hidden).index_copy_(0, counted, d_rows)
        if learns and d_weight is None:  # no target counts
            d_weight = torch.zeros_like(weight)
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
