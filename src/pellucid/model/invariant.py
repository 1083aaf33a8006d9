"""Rows that do not depend on their neighbours: linear maps and activations for float32 on a CPU, without gradients.

A matrix product computes a row by one order of additions when it is alone and by another beside others: BLAS picks its
inner loop by the number of rows. The difference is a rounding error, yet enough to make a request's greedy tokens
change with the batch it is in. Here a row's result is *defined* as what a kernel gives in a call of its ``base`` rows;
a call with more rows is used only after a check, made the first time each GEMM shape is met, has found it bit-equal to
that. Where it is not, the rows are cut in two and tried again.

Measured (dev/LOG.md, "Row invariance of torch's F.linear on CPU"): oneDNN's float32 linear gives equal rows for every
count from 2 up; MKL's (``F.linear``) for multiples of 4 only. Activations: ``silu``, ``gelu_tanh`` (as torch fuses
them), ``sigmoid``, ``softplus`` and ``pow`` round differently in a vector loop's body and in its tail, so an element's
place decides; ``exp``, ``log1p``, ``tanh``, ``erf``, ``sin``, ``cos``, norms, softmax and arithmetic do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

MAX_ROWS = 256  # of one call: beyond this a call is no faster a row, and there are fewer shapes to check
NOISE = 2**20  # random numbers of a map that is tried; larger ones repeat its rows, and copying is quicker than drawing

LinearCall = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Kernel:
    """A way to compute x Wᵀ + b; its rows are defined by calls of ``base`` rows."""

    call: LinearCall
    base: int


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


BLAS, ONE_ROW = Kernel(F.linear, 4), Kernel(F.linear, 1)  # one row a call: slow, and right by definition
KERNELS = (Kernel(_onednn, 2), BLAS, ONE_ROW) if torch.backends.mkldnn.is_available() else (BLAS, ONE_ROW)

# Facts about this machine: the kernel for a map, and whether its call of so many rows is exact.
Gemm = tuple[int, int, bool, int]  # numbers out and in, whether there is a bias, threads
_chosen: dict[Gemm, Kernel] = {}
_exact: dict[tuple[Gemm, int], bool] = {}


def rows_invariant_linear(
    x: Float[Tensor, "*rows K"], weight: Float[Tensor, "N K"], bias: Float[Tensor, "N"] | None = None
) -> Float[Tensor, "*rows N"]:
    """x Wᵀ + b, each row bit-equal to what it is alone, at any place, beside any others. Inference only: no gradient
    flows.

    Row counts that ``padded_rows`` leaves alone need no copy of ``x``.
    """
    rows = x.reshape(-1, x.shape[-1])
    return _linear(rows, weight, bias).view(*x.shape[:-1], weight.shape[0])


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    count = rows.shape[0]
    if count == 0:
        return rows.new_empty(0, weight.shape[0])
    gemm = _gemm(weight, bias)
    kernel = _kernel(gemm)
    size = kernel.base if count <= kernel.base else padded_rows(count)
    if size > MAX_ROWS:
        cut = MAX_ROWS
    elif _is_exact(kernel, gemm, size):
        return kernel.call(rows if count == size else F.pad(rows, (0, 0, 0, size - count)), weight, bias)[:count]
    else:
        cut = size // 2
    return torch.cat([_linear(part, weight, bias) for part in (rows[:cut], rows[cut:])])


def padded_rows(count: int) -> int:
    """The number of rows to compute for ``count``: 2, then multiples of 4 up to 16, then of 16.

    A coarse grid, because each new shape costs a compilation (oneDNN) and a check: 1 → 2, 3 → 4, 13 → 16, 17 → 32.
    """
    if count <= 2:
        return 2
    step = 4 if count <= 16 else 16
    return math.ceil(count / step) * step


def _gemm(weight: Tensor, bias: Tensor | None) -> Gemm:
    return weight.shape[0], weight.shape[1], bias is not None, torch.get_num_threads()


def _kernel(gemm: Gemm) -> Kernel:
    """The first kernel in whose calls of ``base`` rows a row's place does not matter."""
    if gemm not in _chosen:
        _chosen[gemm] = next(kernel for kernel in KERNELS if probe(kernel, gemm, kernel.base))
    return _chosen[gemm]


def _is_exact(kernel: Kernel, gemm: Gemm, size: int) -> bool:
    if size == kernel.base:
        return True
    if (gemm, size) not in _exact:
        _exact[gemm, size] = probe(kernel, gemm, size)
    return _exact[gemm, size]


def probe(kernel: Kernel, gemm: Gemm, size: int) -> bool:
    """Whether a call of ``size`` rows (a multiple of the base) equals calls of ``base`` rows bit for bit, wherever a
    row stands.

    The map that is tried is of random numbers: what a model's weights hold (a NaN equals nothing, zeros hide the order
    of additions) says nothing of how a kernel rounds. Costs about two such calls.
    """
    out, into, has_bias, _ = gemm
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(kernel.base, into, generator=generator, dtype=torch.float32, device="cpu")
    distinct = torch.randn(
        min(out, max(NOISE // into, 1)), into, generator=generator, dtype=torch.float32, device="cpu"
    )
    weight = distinct.repeat(math.ceil(out / len(distinct)), 1)[:out]
    bias = torch.randn(out, generator=generator, dtype=torch.float32, device="cpu") if has_bias else None
    expected = kernel.call(x, weight, bias)
    turned = kernel.call(x.roll(1, 0), weight, bias)
    repeated = kernel.call(x.repeat(size // kernel.base, 1), weight, bias)
    return torch.equal(turned.roll(-1, 0), expected) and torch.equal(
        repeated.view(-1, *expected.shape), expected.expand(size // kernel.base, -1, -1)
    )


def rows_invariant_silu(x: Tensor) -> Tensor:
    """x / (1 + e^−x), in steps that round alike at every place."""
    return x / torch.exp(-x).add_(1)


def rows_invariant_gelu_tanh(x: Tensor) -> Tensor:
    """½ x (1 + tanh(√(2/π) (x + 0.044715 x³))), in steps that round alike at every place."""
    inner = (x * x * x).mul_(0.044715).add_(x).mul_(math.sqrt(2 / math.pi))
    return inner.tanh_().add_(1).mul_(x).mul_(0.5)


def rows_invariant_sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^−x), in steps that round alike at every place."""
    return torch.exp(-x).add_(1).reciprocal_()


def rows_invariant_softplus(x: Tensor) -> Tensor:
    """ln(1 + e^x), in steps that round alike at every place."""
    return x.relu() + torch.log1p(torch.exp(-x.abs()))
