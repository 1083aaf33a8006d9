"""GGML's super-blocks of 256 weights: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K.

A super-block is cut into groups of 16 (Q2, Q3, Q6) or 32 (Q4, Q5) weights. A group's scale is itself a small integer
``s``, scaled by the block's float16 ``d``; Q2, Q4 and Q5 likewise have a group minimum ``μ`` scaled by ``dmin``:

    Q2_K  w = d·s · q − dmin·μ      s, μ 4 bits     q 2 bits
    Q3_K  w = d·(s − 32) · (q − 4)  s 6 bits        q 3 bits, the third in ``hmask``
    Q4_K  w = d·s · q − dmin·μ      s, μ 6 bits     q 4 bits
    Q5_K  w = d·s · q − dmin·μ      s, μ 6 bits     q 5 bits, the fifth in ``qh``
    Q6_K  w = d·s · (q − 32)        s a signed byte q 6 bits, the upper two in ``qh``

Low bits are planes: of 32 consecutive bytes, the first bits hold 32 consecutive weights, the next bits the next 32.

Source: ggml-common.h, block_q2_K … block_q6_K; ggml-quants.c, dequantize_row_*_K and get_scale_min_k4.
"""

from __future__ import annotations

import numpy as np

LAYOUTS: dict[str, np.dtype] = {
    "q2_k": np.dtype([("scales", "u1", 16), ("qs", "u1", (2, 32)), ("d", "<f2"), ("dmin", "<f2")]),
    "q3_k": np.dtype([("hmask", "u1", (1, 32)), ("qs", "u1", (2, 32)), ("scales", "u1", 12), ("d", "<f2")]),
    "q4_k": np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qs", "u1", (4, 32))]),
    "q5_k": np.dtype(
        [("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qh", "u1", (1, 32)), ("qs", "u1", (4, 32))]
    ),
    "q6_k": np.dtype([("ql", "u1", (2, 64)), ("qh", "u1", (2, 32)), ("scales", "i1", 16), ("d", "<f2")]),
}


def planes(stored: np.ndarray, bits: int) -> np.ndarray:
    """Bytes (N, H, W) → integers of ``bits`` bits (N, H · 8/bits · W), the lowest bits of W bytes first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return (stored[:, :, None, :] >> shifts & (2**bits - 1)).reshape(len(stored), -1)


def _scaled(blocks: np.ndarray, name: str, groups: np.ndarray) -> np.ndarray:
    """A float16 field times its groups' integers (N, G), as (N, G, 1) float32."""
    return (blocks[name].astype(np.float32)[:, None] * groups.astype(np.float32))[..., None]


def _write(out: np.ndarray, q: np.ndarray, scale: np.ndarray, minimum: np.ndarray | None = None) -> None:
    """scale · q − minimum, by group."""
    groups = out.reshape(len(out), scale.shape[1], -1)  # (N, G, 256 / G)
    np.multiply(q.reshape(groups.shape), scale, out=groups)
    if minimum is not None:
        groups -= minimum


def six_bit_scales_and_minimums(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Q4_K's and Q5_K's 12 bytes → eight scales and eight minimums of 6 bits.

    Bytes 0–3 hold scales 0–3 in their low 6 bits, bytes 4–7 the minimums 0–3; bytes 8–11 hold the low 4 bits of scales
    and of minimums 4–7, whose upper 2 bits are the top bits of bytes 0–3 and 4–7.
    """
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 0x3F, third & 0x0F | first >> 2 & 0x30], axis=1)
    minimums = np.concatenate([second & 0x3F, third >> 4 | second >> 2 & 0x30], axis=1)
    return scales, minimums


def decode_q2_k(blocks: np.ndarray, out: np.ndarray) -> None:
    """``blocks`` (N,) of the layout → ``out`` (N, 256) float32; so for all below."""
    scales = blocks["scales"]
    _write(out, planes(blocks["qs"], 2), _scaled(blocks, "d", scales & 0x0F), _scaled(blocks, "dmin", scales >> 4))


def q3_k_scales(packed: np.ndarray) -> np.ndarray:
    """Q3_K's 12 bytes → 16 scales of 6 bits less 32: the low 4 are the halves of bytes 0–7, the upper 2 are planes of
    bytes 8–11.
    """
    packed = packed[:, None, :]
    return (planes(packed[:, :, :8], 4) | planes(packed[:, :, 8:], 2) << 4).astype(np.int8) - 32


def decode_q3_k(blocks: np.ndarray, out: np.ndarray) -> None:
    q = (planes(blocks["qs"], 2) | planes(blocks["hmask"], 1) << 2).astype(np.int8) - 4
    _write(out, q, _scaled(blocks, "d", q3_k_scales(blocks["scales"])))


def decode_q4_k(blocks: np.ndarray, out: np.ndarray) -> None:
    scales, minimums = six_bit_scales_and_minimums(blocks["scales"])
    _write(out, planes(blocks["qs"], 4), _scaled(blocks, "d", scales), _scaled(blocks, "dmin", minimums))


def decode_q5_k(blocks: np.ndarray, out: np.ndarray) -> None:
    scales, minimums = six_bit_scales_and_minimums(blocks["scales"])
    q = planes(blocks["qs"], 4) | planes(blocks["qh"], 1) << 4
    _write(out, q, _scaled(blocks, "d", scales), _scaled(blocks, "dmin", minimums))


def decode_q6_k(blocks: np.ndarray, out: np.ndarray) -> None:
    q = (planes(blocks["ql"], 4) | planes(blocks["qh"], 2) << 4).astype(np.int8) - 32
    _write(out, q, _scaled(blocks, "d", blocks["scales"]))


DECODERS = {"q2_k": decode_q2_k, "q3_k": decode_q3_k, "q4_k": decode_q4_k, "q5_k": decode_q5_k, "q6_k": decode_q6_k}
