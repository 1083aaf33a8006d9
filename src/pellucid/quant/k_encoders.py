"""float32 → GGML's super-blocks of 256 weights, by the searches of ggml's own quantizer (see ``search``).

Without importance each weight's error counts by its own size; with it, by what the calibration text says of its column
as well. The layouts are those of ``k_quants``.

Source: ggml-quants.c, quantize_row_q*_K_ref (without importance) and quantize_row_q*_K_impl (with it).
"""

from __future__ import annotations

import numpy as np

from pellucid.quant import search

_F = np.float32


def encode_q2_k(values: np.ndarray, blocks: np.ndarray, importance: np.ndarray | None = None) -> None:
    """``values`` (N, 256) float32 → ``blocks`` (N,) of the layout, ``importance`` of the values' shape; so for all
    below.
    """
    x = _groups(values, 16)
    if importance is None:
        scale, minimum, q = search.with_minimum(x, np.abs(x), 3, start=-0.5, step=0.1, num_steps=15, absolute=True)
        scales, d = _rounded(_by_block(scale, 16), 15)
        minimums, dmin = _rounded(_by_block(minimum, 16), 15)
    else:
        weights = _weights(x, values, importance, 1)
        scale, minimum, q = search.with_minimum(x, weights, 3, start=-0.9, step=0.05, num_steps=36)
        d, dmin, scales, minimums = _both(scale, minimum, weights, 16, 15)
    blocks["d"], blocks["dmin"] = d, dmin
    blocks["scales"] = scales | minimums << 4
    blocks["qs"] = planes_of(_again(x, q, blocks, scales, minimums, 3), 2, (2, 32))


def encode_q3_k(values: np.ndarray, blocks: np.ndarray, importance: np.ndarray | None = None) -> None:
    x = _groups(values, 16)
    if importance is None:
        scale, q = search.signed_by_turns(x, 4)
        by_block = _by_block(scale, 16)
        largest = _largest(by_block)
        some = largest != 0
        inverse = _F(-32) / np.where(some, largest, _F(1))
        scales = np.clip(np.rint(by_block * inverse[:, None]), -32, 31) + 32
        scales[~some] = 0
        blocks["d"] = np.where(some, _F(1) / inverse, _F(0))
    else:
        weights = _weights(x, values, importance, 2)
        scale, q = search.signed(x, weights, 4)
        d, turned = search.signed(_by_block(scale, 16).T.copy(), _by_block(_sums(weights), 16).T.copy(), 32)
        blocks["d"], scales = d, turned.T
    scales = scales.astype(np.uint8)
    q = _again_signed(x, q, blocks, scales.astype(np.float32) - 32, 4)
    packed = blocks["scales"]
    packed[:, :8] = scales[:, :8] & 15 | (scales[:, 8:] & 15) << 4
    packed[:, 8:] = planes_of(scales >> 4, 2, (1, 4))[:, 0]
    blocks["qs"] = planes_of(q & 3, 2, (2, 32))
    blocks["hmask"] = planes_of(q >> 2, 1, (1, 32))


def encode_q4_k(values: np.ndarray, blocks: np.ndarray, importance: np.ndarray | None = None) -> None:
    q = _with_six_bits(values, blocks, importance, 15, start=-1.0, num_steps=20)
    blocks["qs"] = planes_of(q, 4, (4, 32))


def encode_q5_k(values: np.ndarray, blocks: np.ndarray, importance: np.ndarray | None = None) -> None:
    q = _with_six_bits(values, blocks, importance, 31, start=-0.5, num_steps=15)
    blocks["qs"] = planes_of(q & 15, 4, (4, 32))
    blocks["qh"] = planes_of(q >> 4, 1, (1, 32))


def encode_q6_k(values: np.ndarray, blocks: np.ndarray, importance: np.ndarray | None = None) -> None:
    x = _groups(values, 16)
    scale, q = search.signed(x, x * x if importance is None else _groups(importance, 16), 32)
    by_block = _by_block(scale, 16)
    largest = _largest(by_block)
    some = np.abs(largest) >= search.NOTHING
    inverse = _F(-128) / np.where(some, largest, _F(1))
    scales = np.minimum(np.rint(by_block * inverse[:, None]), 127)
    scales[~some] = 0
    blocks["d"] = np.where(some, _F(1) / inverse, _F(0))
    blocks["scales"] = scales
    q = _again_signed(x, q, blocks, scales, 32)
    q[~some] = 0
    blocks["ql"] = planes_of(q & 15, 4, (2, 64))
    blocks["qh"] = planes_of(q >> 4, 2, (2, 32))


def _with_six_bits(
    values: np.ndarray, blocks: np.ndarray, importance: np.ndarray | None, most: int, *, start: float, num_steps: int
) -> np.ndarray:
    """Scales and minimums of Q4_K and Q5_K, written; returns q (N, 256)."""
    x = _groups(values, 32)
    if importance is None:
        mean = np.sqrt(np.add.reduce(x * x, axis=0) / _F(32))
        weights = np.abs(x)
        weights += mean
        scale, minimum, q = search.with_minimum(x, weights, most, start=start, step=0.1, num_steps=num_steps)
        scales, d = _rounded(_by_block(scale, 8), 63)
        minimums, dmin = _rounded(_by_block(minimum, 8), 63)
    else:
        weights = _weights(x, values, importance, 2)
        scale, minimum, q = search.with_minimum(x, weights, most, start=-0.9, step=0.05, num_steps=36)
        d, dmin, scales, minimums = _both(scale, minimum, weights, 8, 63)
    blocks["d"], blocks["dmin"] = d, dmin
    packed = blocks["scales"]
    packed[:, 0:4] = scales[:, :4] | scales[:, 4:] >> 4 << 6
    packed[:, 4:8] = minimums[:, :4] | minimums[:, 4:] >> 4 << 6
    packed[:, 8:] = scales[:, 4:] & 15 | (minimums[:, 4:] & 15) << 4
    return _again(x, q, blocks, scales, minimums, most)


def _groups(values: np.ndarray, size: int) -> np.ndarray:
    """(N, 256) → (size, N · 256 / size): a group a column."""
    return np.ascontiguousarray(values.reshape(-1, size).T)


def _by_block(numbers: np.ndarray, groups: int) -> np.ndarray:
    return numbers.reshape(-1, groups)


def _sums(weights: np.ndarray) -> np.ndarray:
    return np.add.reduce(weights, axis=0)


def _weights(x: np.ndarray, values: np.ndarray, importance: np.ndarray, factor: int) -> np.ndarray:
    """importance · √(σ² + x²), σ² the block's mean square, times ``factor``; by group."""
    squares = np.add.reduce(np.square(np.ascontiguousarray(values.T)), axis=0)
    spread = np.repeat(_F(factor) * squares / _F(256), x.shape[1] // len(values))
    return _groups(importance, len(x)) * np.sqrt(spread + x * x)


def _rounded(numbers: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (N, G) of groups as whole multiples of a block's own: those, and the factor (N,)."""
    greatest = np.maximum(numbers.max(axis=1), _F(0))
    some = greatest > 0
    inverse = np.where(some, _F(most) / np.where(some, greatest, _F(1)), _F(0))
    whole = np.minimum(np.rint(numbers * inverse[:, None]).astype(np.int32).astype(np.uint8), most).astype(np.uint8)
    return whole, greatest / _F(most)


def _both(
    scale: np.ndarray, minimum: np.ndarray, weights: np.ndarray, groups: int, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """d, dmin and the groups' multiples of them, found by weight."""
    counts = _by_block(_sums(weights), groups).T.copy()
    d, scales = search.positive(_by_block(scale, groups).T.copy(), counts, most)
    dmin, minimums = search.positive(_by_block(minimum, groups).T.copy(), counts, most)
    return d, dmin, scales.T.astype(np.uint8), minimums.T.astype(np.uint8)


def _again(
    x: np.ndarray, q: np.ndarray, blocks: np.ndarray, scales: np.ndarray, minimums: np.ndarray, most: int
) -> np.ndarray:
    """q of the scales as they are stored, (N, 256); what has no scale keeps its q, which means nothing."""
    d = (blocks["d"].astype(np.float32)[:, None] * scales).astype(np.float32).reshape(-1)
    m = (blocks["dmin"].astype(np.float32)[:, None] * minimums).astype(np.float32).reshape(-1)
    new = x + m
    new /= np.where(d != 0, d, _F(1))
    np.rint(new, out=new)
    np.clip(new, 0, most, out=new)
    return _rows(np.where(d != 0, new, q), len(blocks))


def _again_signed(x: np.ndarray, q: np.ndarray, blocks: np.ndarray, scales: np.ndarray, most: int) -> np.ndarray:
    d = (blocks["d"].astype(np.float32)[:, None] * scales.astype(np.float32)).reshape(-1)
    new = x / np.where(d != 0, d, _F(1))
    np.rint(new, out=new)
    np.clip(new, -most, most - 1, out=new)
    new += _F(most)
    return _rows(np.where(d != 0, new, q), len(blocks))


def _rows(q: np.ndarray, num_blocks: int) -> np.ndarray:
    return np.ascontiguousarray(q.T).reshape(num_blocks, 256).astype(np.uint8)


def _largest(numbers: np.ndarray) -> np.ndarray:
    """Of each row the first number of the largest magnitude."""
    return np.take_along_axis(numbers, np.abs(numbers).argmax(axis=1)[:, None], axis=1)[:, 0]


def planes_of(q: np.ndarray, bits: int, shape: tuple[int, int]) -> np.ndarray:
    """Integers (N, H · 8/bits · W) → bytes (N, H, W): the inverse of ``k_quants.planes``."""
    parts = q.reshape(len(q), shape[0], 8 // bits, shape[1])
    packed = parts[:, :, 0].copy()
    for place in range(1, 8 // bits):
        packed |= parts[:, :, place] << (bits * place)
    return packed


ENCODERS = {"q2_k": encode_q2_k, "q3_k": encode_q3_k, "q4_k": encode_q4_k, "q5_k": encode_q5_k, "q6_k": encode_q6_k}
