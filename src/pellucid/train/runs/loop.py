"""One optimization step, in the open: micro-batches in, one update out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pellucid.model.decoder import Decoder
from pellucid.train.data.batch import Batch
from pellucid.train.objectives.loss import Loss

LossFunction = Callable[[Decoder, Batch], Loss]


class Means(NamedTuple):
    """Over every target that counts, of all micro-batches and ranks."""

    nll: Tensor  # −log p, in nats
    balance: Tensor | None  # the balance loss of a mixture of experts, without its weight


def accumulate(
    model: Decoder,
    micro_batches: Sequence[Batch],
    loss_function: LossFunction,
    *,
    autocast: torch.dtype | None = None,
    num_ranks: int = 1,
) -> Means:
    """Forward and backward over all micro-batches (of all ranks); gradients are those of the mean over every target
    that counts.

    The targets are counted before the first backward, so that any split of a batch, over micro-batches or processes,
    weighs each target alike. (A balance loss is each micro-batch's own, weighted by its targets: see
    ``train.balance``.)
    """
    device = model.device
    num_targets = torch.tensor(sum(batch.num_targets for batch in micro_batches), device=device)
    if num_ranks > 1:
        torch.distributed.all_reduce(num_targets)
    nll, balance = torch.zeros((), device=device), None
    share = num_ranks / num_targets.clamp(min=1)  # FSDP averages gradients over ranks; times num_ranks, they are summed
    for batch in micro_batches:
        with torch.autocast(device.type, autocast) if autocast else nullcontext():
            loss = loss_function(model, batch.to(device))
        (loss.total * share).backward()
        nll += loss.nll
        if loss.balance is not None:
            balance = loss.balance if balance is None else balance + loss.balance
    if num_ranks > 1:
        torch.distributed.all_reduce(nll)
        if balance is not None:
            torch.distributed.all_reduce(balance)
    num_targets = num_targets.clamp(min=1)
    return Means(nll / num_targets, None if balance is None else balance / num_targets)


def checkpoint_activations(model: Decoder) -> None:
    """Keep only each layer's input for the backward pass and compute the layer again then: memory for about a third
    more time.
    """
    for layer in model.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)  # type: ignore[method-assign]


def clip(model: torch.nn.Module, max_norm: float) -> Tensor:
    """The norm of all gradients together, before they are scaled down to at most ``max_norm`` (0: left alone)."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # type: ignore[operator]
    if max_norm > 0 and not whole <= max_norm:  # most steps need no pass over all gradients that multiplies them by 1
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return whole
