"""GGML's super-blocks of 256 weights whose magnitudes are points of a grid: IQ1, IQ2 and IQ3.

A code picks a vector ``g`` of 8 magnitudes (IQ3: 4), signs come beside it; a group of 16 or 32 weights has a scale of
its own, a small integer s:

    IQ1_S, IQ1_M             w = d·(2s + 1) · (g ± ⅛)    g of −1, 0, 1; the sign of ⅛ by 32 weights or by 8
    IQ2_XXS, IQ2_XS, IQ2_S   w = ± d·(s + ½)/4 · g       g of 8, 25, 43
    IQ3_XXS                  w = ± d·(s + ½)/2 · g       g of 4, 12, 20, 28, 36, 44, 52, 62
    IQ3_S                    w = ± d·(2s + 1) · g        g of 1, 3, …, 15

XXS and XS keep 7 signs of 8, the eighth makes their number even. IQ1_M has no field for d: its 16 bits are the upper
four of each of the four 16-bit words that hold s.

Source: ggml-common.h, block_iq1_s … block_iq3_s; ggml-quants.c, dequantize_row_iq*.
"""

from __future__ import annotations

import numpy as np

from pellucid.quant.grids import grid, signs
from pellucid.quant.lookup import look_up

LAYOUTS: dict[str, np.dtype] = {
    "iq1_s": np.dtype([("d", "<f2"), ("qs", "u1", (8, 4)), ("qh", "<u2", 8)]),
    "iq1_m": np.dtype([("qs", "u1", (16, 2)), ("qh", "u1", 16), ("scales", "<u2", 4)]),
    "iq2_xxs": np.dtype([("d", "<f2"), ("groups", [("qs", "u1", 4), ("signs", "<u4")], 8)]),
    "iq2_xs": np.dtype([("d", "<f2"), ("qs", "<u2", (16, 2)), ("scales", "u1", 8)]),
    "iq2_s": np.dtype([("d", "<f2"), ("qs", "u1", 32), ("signs", "u1", 32), ("qh", "u1", 8), ("scales", "u1", 8)]),
    "iq3_xxs": np.dtype([("d", "<f2"), ("qs", "u1", (8, 8)), ("signs", "<u4", 8)]),
    "iq3_s": np.dtype([("d", "<f2"), ("qs", "u1", (8, 8)), ("qh", "u1", 8), ("signs", "u1", 32), ("scales", "u1", 4)]),
}

_HALF, _QUARTER, _EIGHTH = np.float32(0.5), np.float32(0.25), np.float32(0.125)


def _halves(stored: np.ndarray) -> np.ndarray:
    """Bytes (N, W) → their low and high four bits in turn, (N, 2W) float32."""
    return np.stack((stored & 0x0F, stored >> 4), axis=-1).reshape(len(stored), -1).astype(np.float32)


def _number(blocks: np.ndarray) -> np.ndarray:
    return blocks["d"].astype(np.float32)[:, None]  # (N, 1)


def _write(out: np.ndarray, scale: np.ndarray, points: np.ndarray, sign: np.ndarray | None = None) -> None:
    """scale · points · sign: ``scale`` (N, G); ``points`` and ``sign`` of any shape of N · 256 elements."""
    groups = out.reshape(len(out), scale.shape[1], -1)  # (N, G, 256 / G)
    np.multiply(points.reshape(groups.shape), scale[..., None], out=groups)
    if sign is not None:
        out *= sign.reshape(out.shape)


def decode_iq1_s(blocks: np.ndarray, out: np.ndarray) -> None:
    """``blocks`` (N,) of the layout → ``out`` (N, 256) float32; so for all below."""
    qh = blocks["qh"]  # (N, 8): three upper bits for each of four codes, s, the sign of ⅛
    scale = _number(blocks) * (2 * (qh >> 12 & 7) + 1).astype(np.float32)
    codes = blocks["qs"] | (qh[..., None] >> np.array([0, 3, 6, 9], np.uint16) & 7) << 8
    shift = np.where(qh & 0x8000, -_EIGHTH, _EIGHTH)
    _write(out, scale, look_up(grid("iq1"), codes) + shift[..., None, None])


def decode_iq1_m(blocks: np.ndarray, out: np.ndarray) -> None:
    words = blocks["scales"]  # (N, 4): four times three bits of s, and four bits of d
    d = words >> 12
    bits = d[:, 0] | d[:, 1] << 4 | d[:, 2] << 8 | d[:, 3] << 12
    s = (words[..., None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(len(blocks), 16)
    scale = bits.view(np.float16).astype(np.float32)[:, None] * (2 * s + 1).astype(np.float32)
    qh = blocks["qh"][..., None] >> np.array([0, 4], np.uint8)  # (N, 16, 2): three bits of a code, the sign of its ⅛
    codes = blocks["qs"] | (qh & 7).astype(np.uint16) << 8
    shift = np.where(qh & 8, -_EIGHTH, _EIGHTH)
    _write(out, scale, look_up(grid("iq1"), codes) + shift[..., None])


def _seven_signs(packed: np.ndarray) -> np.ndarray:
    """Words of four times seven signs (N, 8) → (N, 8, 4, 8)."""
    return look_up(signs(7), packed[..., None] >> np.array([0, 7, 14, 21], np.uint32) & 0x7F)


def decode_iq2_xxs(blocks: np.ndarray, out: np.ndarray) -> None:
    packed = blocks["groups"]["signs"]  # (N, 8): signs, and s in the upper four bits
    scale = _number(blocks) * (_HALF + (packed >> 28).astype(np.float32)) * _QUARTER
    _write(out, scale, look_up(grid("iq2_xxs"), blocks["groups"]["qs"]), _seven_signs(packed))


def decode_iq2_xs(blocks: np.ndarray, out: np.ndarray) -> None:
    scale = _number(blocks) * (_HALF + _halves(blocks["scales"])) * _QUARTER
    qs = blocks["qs"]
    _write(out, scale, look_up(grid("iq2_xs"), qs & 511), look_up(signs(7), qs >> 9))


def decode_iq2_s(blocks: np.ndarray, out: np.ndarray) -> None:
    scale = _number(blocks) * (_HALF + _halves(blocks["scales"])) * _QUARTER
    upper = blocks["qh"][..., None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    codes = blocks["qs"] | upper.reshape(len(blocks), 32).astype(np.uint16) << 8
    _write(out, scale, look_up(grid("iq2_s"), codes), look_up(signs(8), blocks["signs"]))


def decode_iq3_xxs(blocks: np.ndarray, out: np.ndarray) -> None:
    packed = blocks["signs"]
    scale = _number(blocks) * (_HALF + (packed >> 28).astype(np.float32)) * _HALF
    _write(out, scale, look_up(grid("iq3_xxs"), blocks["qs"]), _seven_signs(packed))


def iq3_s_scales(packed: np.ndarray) -> np.ndarray:
    """IQ3_S's 4 bytes → eight odd numbers, 2s + 1."""
    return 1 + 2 * _halves(packed)


def decode_iq3_s(blocks: np.ndarray, out: np.ndarray) -> None:
    scale = _number(blocks) * iq3_s_scales(blocks["scales"])
    upper = np.unpackbits(blocks["qh"], axis=1, bitorder="little").reshape(len(blocks), 8, 8)
    codes = blocks["qs"] | upper.astype(np.uint16) << 8
    _write(out, scale, look_up(grid("iq3_s"), codes), look_up(signs(8), blocks["signs"]))


DECODERS = {
    "iq1_s": decode_iq1_s,
    "iq1_m": decode_iq1_m,
    "iq2_xxs": decode_iq2_xxs,
    "iq2_xs": decode_iq2_xs,
    "iq2_s": decode_iq2_s,
    "iq3_xxs": decode_iq3_xxs,
    "iq3_s": decode_iq3_s,
}
