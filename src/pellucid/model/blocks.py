"""Blocks of a few bits into float32 values wherever the blocks are, bit-equal to ``quant.dequantize``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

from pellucid.base.array import BLOCKS, Array
from pellucid.base.errors import UnsupportedError
from pellucid.quant import dequantize_into


def decode(blocks: UInt8[Tensor, "N bytes"], format: str, shape: tuple[int, ...]) -> Float[Tensor, "N K"]:
    """On a CPU ``quant.dequantize`` does it: quicker, and in less memory."""
    if blocks.device.type == "cpu":
        out = torch.empty(shape)
        dequantize_into(Array(format, shape, blocks.numpy()), out.numpy())
        return out
    return decode_on_device(blocks, format).view(shape)


def require_decoder(format: str, device: torch.device) -> None:
    """Raises: UnsupportedError for a format that only a CPU decodes."""
    if device.type != "cpu" and format not in ON_DEVICE:
        raise UnsupportedError(
            f"{format} blocks are decoded on a CPU only", expected=" or ".join(ON_DEVICE), remedy="--device cpu"
        )


def decode_on_device(blocks: UInt8[Tensor, "N bytes"], format: str) -> Float[Tensor, "n elements"]:
    """By torch's own operations. Source: see ``quant.blocks32`` and ``quant.k_quants``."""
    return ON_DEVICE[format](blocks.view(-1, BLOCKS[format][1]))


def _number(blocks: Tensor, at: int) -> Float[Tensor, "n 1"]:
    return blocks[:, at : at + 2].view(torch.float16).float()


def _halves(blocks: Tensor, at: int) -> UInt8[Tensor, "n 32"]:
    return torch.cat((blocks[:, at:] & 15, blocks[:, at:] >> 4), 1)


def _fifth(blocks: Tensor, at: int) -> UInt8[Tensor, "n 32"]:
    """Four bytes' bits, the lowest first, each where a number's fifth bit is."""
    bits = torch.arange(8, dtype=torch.uint8, device=blocks.device)
    return (blocks[:, at : at + 4, None] >> bits & 1).flatten(1) << 4


def _planes(stored: UInt8[Tensor, "n W"], bits: int, width: int = 32) -> UInt8[Tensor, "n numbers"]:
    """Of each ``width`` bytes, the lowest bits of all first."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=stored.device)[:, None]
    return (stored.unflatten(1, (-1, 1, width)) >> shifts & (2**bits - 1)).flatten(1)


def _by_group(q: Tensor, scales: Float[Tensor, "n G"], minimums: Float[Tensor, "n G"] | None = None) -> Tensor:
    """scale · q − minimum, by group."""
    groups = q.unflatten(1, (scales.shape[1], -1)).float() * scales[..., None]
    return (groups if minimums is None else groups - minimums[..., None]).flatten(1)


def _six_bits(blocks: Tensor) -> tuple[UInt8[Tensor, "n 8"], UInt8[Tensor, "n 8"]]:
    """Q4_K's and Q5_K's scales and minimums: see ``quant.k_quants.six_bit_scales_and_minimums``."""
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat((first & 0x3F, third & 0x0F | first >> 2 & 0x30), 1)
    return scales, torch.cat((second & 0x3F, third >> 4 | second >> 2 & 0x30), 1)


def _q2_k(blocks: Tensor) -> Tensor:
    scales = blocks[:, :16]
    return _by_group(
        _planes(blocks[:, 16:80], 2), _number(blocks, 80) * (scales & 15), _number(blocks, 82) * (scales >> 4)
    )


def _q3_k(blocks: Tensor) -> Tensor:
    q = (_planes(blocks[:, 32:96], 2) | _planes(blocks[:, :32], 1) << 2).to(torch.int8) - 4
    low, high = _planes(blocks[:, 96:104], 4, 8), _planes(blocks[:, 104:108], 2, 4)
    scales: Int8[Tensor, "n 16"] = (low | high << 4).to(torch.int8) - 32
    return _by_group(q, _number(blocks, 108) * scales)


def _q4_k(blocks: Tensor) -> Tensor:
    scales, minimums = _six_bits(blocks)
    return _by_group(_planes(blocks[:, 16:144], 4), _number(blocks, 0) * scales, _number(blocks, 2) * minimums)


def _q5_k(blocks: Tensor) -> Tensor:
    scales, minimums = _six_bits(blocks)
    q = _planes(blocks[:, 48:176], 4) | _planes(blocks[:, 16:48], 1) << 4
    return _by_group(q, _number(blocks, 0) * scales, _number(blocks, 2) * minimums)


def _q6_k(blocks: Tensor) -> Tensor:
    q = (_planes(blocks[:, :128], 4, 64) | _planes(blocks[:, 128:192], 2) << 4).to(torch.int8) - 32
    return _by_group(q, _number(blocks, 208) * blocks[:, 192:208].view(torch.int8))


ON_DEVICE: dict[str, Callable[[Tensor], Tensor]] = {
    "q8_0": lambda blocks: blocks[:, 2:].view(torch.int8).float() * _number(blocks, 0),
    "q4_0": lambda blocks: (_halves(blocks, 2).float() - 8) * _number(blocks, 0),
    "q4_1": lambda blocks: _halves(blocks, 4).float() * _number(blocks, 0) + _number(blocks, 2),
    "q5_0": lambda blocks: ((_halves(blocks, 6) | _fifth(blocks, 2)).float() - 16) * _number(blocks, 0),
    "q5_1": lambda blocks: (_halves(blocks, 8) | _fifth(blocks, 4)).float() * _number(blocks, 0) + _number(blocks, 2),
    "q2_k": _q2_k,
    "q3_k": _q3_k,
    "q4_k": _q4_k,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
}
