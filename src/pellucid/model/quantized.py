"""Frozen linear maps whose weights stay in blocks of a few bits, made into numbers for one product at a time.

Forward and backward each decode a weight anew and let it go: what stays in memory is the blocks. The formats are those
of ``quant/``. Source: Dettmers et al. 2023 (QLoRA) §3, with GGML's blocks in place of NF4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.base.array import BLOCKS, Array
from pellucid.model.blocks import decode, require_decoder
from pellucid.model.context import Context
from pellucid.model.invariant import rows_invariant_linear
from pellucid.quant import dequantize, quantize

QUANTIZED = {"q8": "q8_0", "q4": "q4_0"}  # what a number of bits is called → the format


def in_blocks(weight: Array, bits: str) -> Array | None:
    """A matrix in blocks: its own where it is in blocks already, else of ``bits``, q8 or q4; None where its rows are no
    whole blocks.
    """
    if weight.is_blocks:
        return weight
    format = QUANTIZED[bits]
    return None if weight.shape[1] % BLOCKS[format][0] else quantize(dequantize(weight), format)


class QuantizedLinear(nn.Module):
    """x Wᵀ + b, W decoded on the way, into the model's dtype; gradients reach x alone."""

    blocks: Tensor  # (N, bytes of a row), uint8
    bias: nn.Parameter | None

    def __init__(self, blocks: Array, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.out_features, self.in_features = blocks.shape
        self.format, self.dtype = blocks.dtype, dtype
        require_decoder(self.format, device)
        self.register_parameter("bias", None)
        data = np.ascontiguousarray(blocks.data)
        self.register_buffer(
            "blocks", torch.from_numpy(data if data.flags.writeable else data.copy()).to(device), persistent=False
        )

    def forward(self, x: Float[Tensor, "*rows K"], ctx: Context) -> Float[Tensor, "*rows N"]:
        if ctx.rows_invariant:
            return rows_invariant_linear(x, self.decoded(), self.bias)
        return _Frozen.apply(x, self)  # type: ignore[return-value]

    def decoded(self) -> Float[Tensor, "N K"]:
        """W, in the model's dtype: a new tensor."""
        return decode(self.blocks, self.format, (self.out_features, self.in_features)).to(self.dtype)

    @property
    def weight(self) -> nn.Parameter:
        """W as a parameter that is nobody's, for whoever looks at weights or saves them."""
        return nn.Parameter(self.decoded(), requires_grad=False)


class _Frozen(torch.autograd.Function):
    """y = x Wᵀ + b; ∂x = ∂y W, W decoded again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: QuantizedLinear) -> Tensor:
        ctx.linear, ctx.dtype = linear, x.dtype
        return F.linear(x, linear.decoded(), linear.bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return (dy @ ctx.linear.decoded().to(dy.dtype)).to(ctx.dtype), None
