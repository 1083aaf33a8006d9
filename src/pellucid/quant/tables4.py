"""Blocks whose four-bit codes stand for the values of a table: IQ4_NL, IQ4_XS, MXFP4, NVFP4.

    IQ4_NL   32 weights    w = d · t[q]                  t: sixteen values, denser near 0
    IQ4_XS   256 weights   w = d·(s − 32) · t[q]         s 6 bits, by 32 weights
    MXFP4    32 weights    w = 2^(e − 127) · f[q]        f: the float of 4 bits, E2M1: 0, ½, 1, 1½, 2, 3, 4, 6 and minus
    NVFP4    64 weights    w = s · f[q]                  s a float of 8 bits, E4M3 without its sign, by 16 weights

ggml keeps f doubled, as whole numbers, and halves the scale; so does this. Byte j of a group holds weight j in its low
half, and weight j + 16 (NVFP4: j + 8) in its high half.

Source: ggml-common.h, block_iq4_nl, block_iq4_xs, block_mxfp4, block_nvfp4, kvalues_iq4nl, kvalues_mxfp4; ggml-impl.h,
ggml_e8m0_to_fp32_half; Open Compute Project, *Microscaling Formats (MX) v1.0* §5.3, §6.3.
"""

from __future__ import annotations

import numpy as np

from pellucid.quant.lookup import look_up

LAYOUTS: dict[str, np.dtype] = {
    "iq4_nl": np.dtype([("d", "<f2"), ("qs", "u1", 16)]),
    "iq4_xs": np.dtype([("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", 4), ("qs", "u1", (8, 16))]),
    "mxfp4": np.dtype([("e", "u1"), ("qs", "u1", 16)]),
    "nvfp4": np.dtype([("scales", "u1", 4), ("qs", "u1", (4, 8))]),
}

IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
E2M1_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def _half_powers_of_two() -> np.ndarray:
    """2^(e − 128) for each byte e; as a float32's bits, the first two are subnormal."""
    e = np.arange(256, dtype=np.uint32)
    return np.where(e < 2, np.uint32(0x00200000) << e, (e - np.uint32(1)) << np.uint32(23)).view(np.float32)


def _half_e4m3() -> np.ndarray:
    """Half of each byte's value as E4M3, its sign bit never looked at; what would be NaN is 0, as in ggml."""
    byte = np.arange(256)
    exponent, fraction = byte >> 3 & 0xF, (byte & 7).astype(np.float32)
    normal = (1 + fraction / 8) * np.exp2((exponent - 7).astype(np.float32))
    values = np.where(exponent == 0, fraction * np.float32(2**-9), normal) * np.float32(0.5)
    values[0x7F] = 0
    return values.astype(np.float32)


E8M0_HALF, E4M3_HALF = _half_powers_of_two(), _half_e4m3()


def halves(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tables of 256 values: what a byte's low half stands for, and its high half."""
    byte = np.arange(256)
    return table[byte & 0x0F], table[byte >> 4]


_IQ4, _E2M1 = halves(IQ4), halves(E2M1_DOUBLED)


def _looked_up(tables: tuple[np.ndarray, np.ndarray], packed: np.ndarray, out: np.ndarray) -> None:
    """Bytes (M, W) → the values of their low halves, then of their high ones, into ``out`` (M, 2W)."""
    width = packed.shape[1]
    out[:, :width] = look_up(tables[0], packed)
    out[:, width:] = look_up(tables[1], packed)


def decode_iq4_nl(blocks: np.ndarray, out: np.ndarray) -> None:
    """``blocks`` (N,) of the layout → ``out`` (N, weights of a block) float32; so for all below."""
    _looked_up(_IQ4, blocks["qs"], out)
    out *= blocks["d"].astype(np.float32)[:, None]


def iq4_xs_scales(blocks: np.ndarray) -> np.ndarray:
    """s − 32 of the eight groups of each block, (N, 8) int8."""
    low = np.stack((blocks["scales_l"] & 0x0F, blocks["scales_l"] >> 4), axis=-1).reshape(len(blocks), 8)
    high = (blocks["scales_h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3).astype(np.uint8)
    return (low | high << 4).astype(np.int8) - 32


def decode_iq4_xs(blocks: np.ndarray, out: np.ndarray) -> None:
    scale = blocks["d"].astype(np.float32)[:, None] * iq4_xs_scales(blocks).astype(np.float32)  # (N, 8)
    groups = out.reshape(-1, 32)
    _looked_up(_IQ4, blocks["qs"].reshape(-1, 16), groups)
    groups *= scale.reshape(-1, 1)


def decode_mxfp4(blocks: np.ndarray, out: np.ndarray) -> None:
    _looked_up(_E2M1, blocks["qs"], out)
    out *= E8M0_HALF[blocks["e"]][:, None]


def decode_nvfp4(blocks: np.ndarray, out: np.ndarray) -> None:
    groups = out.reshape(-1, 16)
    _looked_up(_E2M1, blocks["qs"].reshape(-1, 8), groups)
    groups *= E4M3_HALF[blocks["scales"]].reshape(-1, 1)


DECODERS = {"iq4_nl": decode_iq4_nl, "iq4_xs": decode_iq4_xs, "mxfp4": decode_mxfp4, "nvfp4": decode_nvfp4}
