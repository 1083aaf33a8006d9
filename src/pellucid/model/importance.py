"""How much each input of each linear map counts: its mean square over a calibration text.

The error that rounding W to Ŵ makes in W x is, over a text, Σ_j (w_j − ŵ_j)² E[x_j²] for each row, where inputs are
uncorrelated: so E[x_j²] is the weight of column j's error. Source: llama.cpp, tools/imatrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.linear import Linear

Sums = dict[str, tuple[np.ndarray, int]]  # our weight's name → Σ x² of each column, (C,) float64; rows that were summed


def input_squares(
    decoder: Decoder,
    chunks: Sequence[Sequence[int]],
    ran: Callable[[int, int], None] = lambda done, total: None,
) -> Sums:
    """Σ x² of the inputs of every linear map but the output layer, while the decoder reads ``chunks`` of token ids."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    total, done = sum(map(len, chunks)), 0
    with torch.no_grad(), _watched(decoder, sums, counts):
        for ids in chunks:
            tokens = torch.tensor([list(ids)], device=decoder.device)
            decoder.hidden(tokens, Context(positions=torch.arange(len(ids), device=decoder.device)[None]))
            done += len(ids)
            ran(done, total)
    return {name: (sums[name].cpu().numpy(), counts[name]) for name in sums}


@contextmanager
def _watched(decoder: Decoder, sums: dict[str, Tensor], counts: dict[str, int]) -> Iterator[None]:
    """Every linear map adds to the sums of its name. Hooks do, since no tap is of an expert; nothing is compiled."""

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().flatten(0, -2).float()
            square = x.square().sum(0).double()
            sums[name] = sums[name] + square if name in sums else square
            counts[name] = counts.get(name, 0) + len(x)

        return add

    handles = [
        module.register_forward_pre_hook(watch(f"{path}.weight"))
        for path, module in decoder.named_modules()
        if isinstance(module, Linear) and path != "lm_head"
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
