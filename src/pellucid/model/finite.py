"""Where a number stops being finite: in a weight, else in the first tap of a forward pass that is NaN or infinite.

The search goes through explicit attention. The fused kernel answers a query whose scores are all NaN with zeros, and so
hides what is wrong with q or k (torch 2.13, CPU: float32, bfloat16 and float16).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from pellucid.base.errors import NotFiniteError
from pellucid.model.attend import explicit, sdpa
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.quantized import QuantizedLinear


@dataclass(frozen=True)
class NotFinite:
    """A tensor that holds a number that is not finite, and the first such number in it."""

    path: str  # a weight's name, ``layers.3.attention.q_proj.weight``, or a tap's, ``layers.3.scores``
    kind: Literal["weight", "tap"]
    value: float  # NaN, ∞ or −∞
    place: tuple[int, ...]  # its indices in the tensor
    count: int
    total: int
    dtype: torch.dtype

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.path}: {self.value} at {self.place}; {self.count:,} of {self.total:,} numbers, {dtype}"

    def error(self) -> NotFiniteError:
        if self.kind == "weight":
            return NotFiniteError(
                "a weight is not finite", where=self, remedy="the file is damaged, or training diverged"
            )
        remedy = "the values outgrow this dtype; try dtype='float32'" if self.dtype != torch.float32 else None
        return NotFiniteError("a value is not finite, though all weights are", where=self, remedy=remedy)


def first_not_finite(
    decoder: Decoder,
    token_ids: Tensor | Sequence[int] | None = None,
    ctx: Context | None = None,
    *,
    weights: bool = True,
) -> NotFinite | None:
    """The first weight that is not finite, else, given token ids, the first tap; None where all is well.

    ``token_ids``: (T,) or (B, T). ``ctx``: the pass to look at, its cache included, which then may hold these tokens;
    None: a plain causal one. ``weights``: whether to look at them at all.
    """
    if weights and (weight := first_weight_not_finite(decoder)) is not None:
        return weight
    if token_ids is None:
        return None
    ids = torch.atleast_2d(torch.as_tensor(token_ids, dtype=torch.long, device=decoder.device))
    if ctx is None:
        ctx = Context(torch.arange(ids.shape[1], device=ids.device).expand_as(ids))
    watch = _FirstTap(decoder)
    ctx = replace(ctx, recorder=watch, attend=explicit if ctx.attend in (None, sdpa) else ctx.attend)
    with torch.no_grad():
        try:
            decoder.logits(decoder.hidden(ids, ctx), ctx)
        except _Stop:
            return watch.first
    return None


@torch.no_grad()
def require_finite(decoder: Decoder, logits: Tensor, token_ids: Int[Tensor, "B T"], ctx: Context) -> None:
    """Raises: NotFiniteError where the logits of a pass, or what its fused kernel may hide (``ctx.sums``), are not."""
    if bool(
        torch.stack([logits.sum(dtype=torch.float32), *(value.sum() for value in ctx.sums or ())]).isfinite().all()
    ):
        return
    looked_at = replace(ctx, sums=None, cache=None)
    if (first := first_not_finite(decoder, token_ids, looked_at)) is not None:
        raise first.error()
    if not bool(logits.isfinite().all()):
        raise NotFiniteError("the model's logits are not finite", remedy="try dtype='float32'")


@torch.no_grad()
def first_weight_not_finite(decoder: nn.Module) -> NotFinite | None:
    """The first of a model's weights, in the order of its modules, that holds a NaN or an infinity."""
    for name, weight in _weights(decoder):
        if (first := _first(name, "weight", weight)) is not None:
            return first
    return None


def _weights(decoder: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each parameter, and what blocks of a few bits amount to, one at a time."""
    for path, module in decoder.named_modules():
        if isinstance(module, QuantizedLinear):
            yield f"{path}.weight", module.decoded()
        for leaf, parameter in module.named_parameters(recurse=False):
            yield f"{path}.{leaf}".lstrip("."), parameter


def _first(path: str, kind: Literal["weight", "tap"], value: Tensor, masked: bool = False) -> NotFinite | None:
    """``masked``: −∞ is what it should hold where a query may not see a key."""
    bad = ~torch.isfinite(value)
    if masked:
        bad &= value != -math.inf
    if not bad.any():
        return None
    place = tuple(bad.nonzero()[0].tolist())
    return NotFinite(path, kind, float(value[place]), place, int(bad.sum()), value.numel(), value.dtype)


class _Stop(Exception):
    """What is looked for has been found: the rest of the pass need not run."""


class _FirstTap:
    """A recorder that stops the pass at the first value that is not finite."""

    def __init__(self, decoder: Decoder) -> None:
        self._layers = {module: f"layers.{i}." for i, layer in enumerate(decoder.layers) for module in layer.modules()}
        self.first: NotFinite | None = None

    def record(self, module: nn.Module, name: str, value: Tensor) -> Tensor:
        self.first = _first(self._layers.get(module, "") + name, "tap", value, masked=name == "scores")
        if self.first is not None:
            raise _Stop
        return value
