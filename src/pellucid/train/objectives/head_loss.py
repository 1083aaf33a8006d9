"""The output head and its cross-entropy in one, forwards and backwards: the gradients of a chunk are made while its
logits are at hand.

No softmax is ever written. With E = exp(logits), S = Σ E of a row and L = log S, the gradient of nll + z · L² by a row
of logits is

    r · D,   D = E − onehot(target) / r,   r = (1 + 2 z L) / S

so E takes the logits' place, one element of a row is corrected, and r goes into the narrow factors of the two products
that follow::

    d_hidden = r · (D W)        d_weight = Dᵀ (r · hidden)

That is one exponential in place and one sum over the vocabulary, where a softmax in float32 of logits in bfloat16 takes
a CPU three times as long. A soft-cap c · tanh(x / c) multiplies D by its slope, 1 − tanh²(x / c). exp needs no maximum
subtracted while S and the target's E stay within ``SAFE``; a chunk of which that is not true is done again, by its
softmax.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.train.data.batch import IGNORED

SAFE = (1e-30, 1e30)
CACHED_CELLS = 2**19  # logits that a CPU core turns into exponentials at a time: 1 MB of bfloat16 stays in its cache
COLUMNS = 2048  # words whose gradients are transposed at a time


class _Rows(NamedTuple):
    """What is known of some rows once their logits have become D."""

    log_p: Float[Tensor, "N 1"]  # of the target
    log_sum: Float[Tensor, "N 1"]  # L
    scale: Float[Tensor, "N 1"]  # r


class HeadLoss(torch.autograd.Function):
    """(Σ (nll + z_loss · L²), Σ nll) over the rows whose target counts, in float32."""

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
        d_weight = _Products() if wants_gradients and ctx.needs_input_grad[1] else None
        total, nll = hidden.new_zeros((), dtype=torch.float32), hidden.new_zeros((), dtype=torch.float32)
        with torch.autocast(
            device, enabled=False
        ):  # cast once, here: autocast would cast the whole head again for each chunk
            head = weight.to(dtype)
            memory = head.new_empty(min(chunk_rows, len(rows)), len(head))  # of all chunks: new pages are dear
            for part in _parts(len(rows), chunk_rows):
                h, target = rows[part].to(dtype), wanted[part, None]
                logits = torch.mm(h, head.mT, out=memory[: len(h)])
                if d_rows is None and d_weight is None:
                    its = _by_softmax(logits, target, softcap, z_loss, writes=False)
                else:
                    its = _by_exponentials(logits, target, softcap, z_loss)
                    if its is None:
                        its = _by_softmax(torch.mm(h, head.mT, out=logits), target, softcap, z_loss)
                nll -= its.log_p.sum()
                total += z_loss * its.log_sum.square().sum() - its.log_p.sum()
                if d_rows is not None:
                    torch.mul(logits @ head, its.scale, out=d_rows[part])
                if d_weight is not None:
                    d_weight.add((h * its.scale).to(dtype), logits)
        if d_rows is not None and not everything:
            d_rows = torch.zeros_like(hidden).index_copy_(0, counted, d_rows)
        ctx.save_for_backward(d_rows, None if d_weight is None else d_weight.transposed(weight))
        ctx.mark_non_differentiable(nll)
        return total, nll

    @staticmethod
    def backward(ctx: Any, d_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        d_hidden, d_weight = ctx.saved_tensors  # ours alone, and as large as the head: scaled where they are
        return (
            None if d_hidden is None else d_hidden.mul_(d_total),
            None if d_weight is None else d_weight.mul_(d_total),
            *(None,) * 5,
        )


def _by_exponentials(logits: Tensor, target: Tensor, softcap: float | None, z_loss: float) -> _Rows | None:
    """Turn logits into D; None, and logits spoilt, where exponentials leave the range in which they are exact."""
    if logits.dtype == torch.float16:  # its range ends at exp(11)
        return None
    sums, slope = torch.empty(len(logits), 1, device=logits.device), None
    taken = torch.empty_like(sums)  # E of the target
    for rows in _cached(logits):
        some, slope = logits[rows], None
        if softcap is None:
            powers = some.exp_()
        else:
            bent = some.float().div_(softcap).tanh_()
            slope, powers = 1 - bent.square(), bent.mul_(softcap).exp_()
        torch.sum(powers, -1, keepdim=True, dtype=torch.float32, out=sums[rows])
        taken[rows] = powers.gather(1, target[rows]).float()
        if slope is not None:
            some.copy_(powers.mul_(slope))
    log_sum = sums.log()
    if not bool(((sums < SAFE[1]) & (taken > SAFE[0]) & (z_loss * log_sum > -0.25)).all()):
        return None
    scale = (1 + 2 * z_loss * log_sum) / sums
    d_taken = taken - 1 / scale
    if softcap is not None:
        d_taken *= logits.gather(1, target).float() / taken  # the target's slope
    logits[torch.arange(len(logits), device=logits.device), target[:, 0]] = d_taken[:, 0].to(
        logits.dtype
    )  # scatter_ would copy all of them
    return _Rows((taken / sums).log(), log_sum, scale)


def _by_softmax(logits: Tensor, target: Tensor, softcap: float | None, z_loss: float, *, writes: bool = True) -> _Rows:
    """The same for any logits: D is then the gradient itself, p · (1 + 2 z L) − onehot, and r = 1. Not ``writes``:
    logits stay as they are.
    """
    log_p = torch.empty(len(logits), 1, device=logits.device)
    log_sum = torch.empty_like(log_p)
    for rows in _cached(logits):
        wide, slope, theirs = logits[rows].float(), None, target[rows]
        if softcap is not None:
            bent = torch.tanh(wide / softcap)
            wide, slope = bent * softcap, 1 - bent.square()
        its = F.log_softmax(wide, -1)
        log_p[rows] = its.gather(1, theirs)
        log_sum[rows] = wide.gather(1, theirs) - log_p[rows]
        if writes:
            d = its.exp_()
            if z_loss:
                d *= 1 + 2 * z_loss * log_sum[rows]
            d.scatter_add_(1, theirs, torch.full_like(log_sum[rows], -1.0))
            logits[rows] = d if slope is None else d.mul_(slope)
    return _Rows(log_p, log_sum, torch.ones_like(log_p))


def _parts(count: int, most: int) -> Iterator[slice]:
    """``count`` rows in parts of like size, of at most ``most``."""
    size = math.ceil(count / max(math.ceil(count / most), 1))
    return (slice(first, min(first + size, count)) for first in range(0, count, size or 1))


def _cached(logits: Tensor) -> Iterator[slice]:
    """Parts that fit a CPU's cache; on a GPU there is one."""
    count, most = len(logits), max(CACHED_CELLS * torch.get_num_threads() // logits.shape[1], 1)
    return _parts(count, most if logits.device.type == "cpu" else max(count, 1))


class _Products:
    """Σ hiddenᵀ d over chunks, (D, V), summed up in float32: in this layout a CPU's products are a third faster than in
    the head's own.
    """

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._product: Tensor | None = None

    def add(self, hidden: Float[Tensor, "N D"], d: Float[Tensor, "N V"]) -> None:
        if self._sum is None:
            self._product = hidden.mT @ d
            self._sum = self._product.float()
        elif hidden.dtype == torch.float32:
            self._sum.addmm_(hidden.mT, d)
        else:
            product = torch.mm(hidden.mT, d, out=self._product)
            for sums, more in zip(
                self._sum.split(32), product.split(32), strict=True
            ):  # a CPU adds unlike types slowly
                sums.add_(more.float())

    def transposed(self, weight: Float[Tensor, "V D"]) -> Float[Tensor, "V D"]:
        """The sum in the layout and type of the weight; 0 where nothing was added."""
        if self._sum is None:
            return torch.zeros_like(weight)
        turned = torch.empty_like(weight)
        for first in range(0, len(turned), COLUMNS):
            turned[first : first + COLUMNS] = self._sum[:, first : first + COLUMNS].mT
        return turned
