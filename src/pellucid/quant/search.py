"""The scale of a group of weights that loses least: the searches of ggml's quantizers, for many groups at once.

Every function takes ``x`` (n, N) float32, a group a *column*, and how much each weight's error counts, likewise. So a
step of the search is a few passes over rows of N numbers, and a sum over a group adds its weights in order, as ggml's
loops do: without fused multiply-adds in the compiled ggml, the results are the same to the bit.

Source: ggml-quants.c, make_qx_quants, make_q3_quants, make_qkx2_quants, make_qkx3_quants, make_qp_quants.
"""

from __future__ import annotations

import numpy as np

_F = np.float32
NOTHING = _F(1e-15)  # a group whose largest magnitude is below this is all zero


def signed(x: np.ndarray, weights: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale d (N,) and q (n, N) in −most … most − 1 that make Σ w (x − d q)² small; q is 0-based: q + most.

    The largest magnitude is put near −most, and eighteen scales about that are tried; d is the least-squares one.
    """
    size, largest = _largest(x)
    empty = size < NOTHING
    largest = np.where(empty, _F(1), largest)
    moment, a, b = weights * x, np.empty_like(x), np.empty_like(x)

    def fit(inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Σ w x q and Σ w q² of this scale."""
        np.multiply(x, inverse, out=a)
        _whole(a, -most, most - 1)
        np.multiply(moment, a, out=b)
        along = np.add.reduce(b, axis=0)
        np.multiply(weights, a, out=b)
        b.__imul__(a)
        return along, np.add.reduce(b, axis=0)

    best_inverse = _F(-most) / largest
    along, square = fit(best_inverse)
    scale = np.where(square != 0, along / np.where(square != 0, square, _F(1)), _F(0))
    best = scale * along
    for step in range(-9, 10):
        if step == 0:
            continue
        inverse = -(_F(most) + _F(0.1) * _F(step)) / largest
        along, square = fit(inverse)
        better = (square > 0) & (along * along > best * square)
        scale = np.where(better, along / np.where(better, square, _F(1)), scale)
        best = np.where(better, scale * along, best)
        best_inverse = np.where(better, inverse, best_inverse)
    np.multiply(x, best_inverse, out=a)
    _whole(a, -most, most - 1)
    a += _F(most)
    a[:, empty] = 0
    scale[empty] = 0
    return scale, a


def signed_by_turns(x: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """As ``signed`` with w = x², found by changing one q at a time, five times over (Q3_K)."""
    size, largest = _largest(x)
    empty = size < NOTHING
    weights = x * x
    q = x * (_F(-most) / np.where(empty, _F(1), largest))
    _whole(q, -most, most - 1)
    moment = weights * x
    along, square = np.add.reduce(moment * q, axis=0), np.add.reduce(weights * q * q, axis=0)
    for _ in range(5):
        for i in range(len(x)):
            rest = along - moment[i] * q[i]
            rest_square = square - weights[i] * q[i] * q[i]
            able = rest > 0
            new = x[i] * rest_square / np.where(able, rest, _F(1))
            _whole(new, -most, most - 1)
            rest += moment[i] * new
            rest_square += weights[i] * new * new
            better = able & (new != q[i]) & (rest_square > 0)
            better &= rest * rest * square > along * along * rest_square
            q[i] = np.where(better, new, q[i])
            along, square = np.where(better, rest, along), np.where(better, rest_square, square)
    scale = np.where(square > 0, along / np.where(square > 0, square, _F(1)), _F(0))
    q += _F(most)
    q[:, empty] = 0
    scale[empty] = 0
    return scale, q


def with_minimum(
    x: np.ndarray,
    weights: np.ndarray,
    most: int,
    *,
    start: float,
    step: float,
    num_steps: int,
    absolute: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scale d, minimum μ ≥ 0 (N,) and q (n, N) in 0 … most that make Σ w (d q − μ − x)² small; ``absolute``: Σ w |…|.

    Scales (most + start + step · i) / (max x − min x) are tried, i = 0 … num_steps; each gives q, and q the
    least-squares d and μ.
    """
    least, greatest = np.minimum.reduce(x, axis=0), np.maximum.reduce(x, axis=0)
    sum_w, sum_x = np.add.reduce(weights, axis=0), np.add.reduce(weights * x, axis=0)
    least = np.minimum(least, _F(0))
    flat = greatest <= least
    greatest = np.where(flat, least + _F(1), greatest)
    q, a = np.empty_like(x), np.empty_like(x)

    def rounded(inverse: np.ndarray, least: np.ndarray) -> None:
        np.subtract(x, least, out=q)
        q.__imul__(inverse)
        _whole(q, 0, most)

    def error(scale: np.ndarray, least: np.ndarray) -> np.ndarray:
        np.multiply(q, scale, out=a)
        a.__iadd__(least)
        a.__isub__(x)
        if absolute:
            np.abs(a, out=a)
        else:
            np.square(a, out=a)
        a.__imul__(weights)
        return np.add.reduce(a, axis=0)

    inverse = _F(most) / (greatest - least)
    scale = _F(1) / inverse
    rounded(inverse, least)
    best = error(scale, least)
    best_inverse, best_least = inverse, least  # what the best q was rounded with
    for i in range(num_steps + 1):
        inverse = (_F(start) + _F(step) * _F(i) + _F(most)) / (greatest - least)
        rounded(inverse, least)
        np.multiply(weights, q, out=a)
        sum_q = np.add.reduce(a, axis=0)
        a_q = a * q
        sum_qq = np.add.reduce(a_q, axis=0)
        a *= x
        sum_xq = np.add.reduce(a, axis=0)
        determinant = sum_w * sum_qq - sum_q * sum_q
        able = determinant > 0
        safe = np.where(able, determinant, _F(1))
        slope = (sum_w * sum_xq - sum_x * sum_q) / safe
        offset = (sum_qq * sum_x - sum_q * sum_xq) / safe
        above = offset > 0
        offset = np.where(above, _F(0), offset)
        slope = np.where(above, sum_xq / np.where(sum_qq > 0, sum_qq, _F(1)), slope)
        loss = error(slope, offset)
        better = able & (loss < best)
        best = np.where(better, loss, best)
        best_inverse, best_least = np.where(better, inverse, best_inverse), np.where(better, least, best_least)
        scale, least = np.where(better, slope, scale), np.where(better, offset, least)
    rounded(best_inverse, best_least)
    q[:, flat] = 0
    scale[flat] = 0
    return scale, -least, q


def positive(x: np.ndarray, weights: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale d (N,) and q (n, N) in 0 … most that make Σ w (x − d q)² small, of x ≥ 0: the scales of a block's."""
    greatest = np.maximum(np.maximum.reduce(x, axis=0), _F(0))
    empty = greatest < NOTHING
    greatest = np.where(empty, _F(1), greatest)
    best_inverse = inverse = _F(most) / greatest
    scale = _F(1) / inverse
    q = np.rint(x * inverse)
    best = np.add.reduce(_loss(x, scale, q, weights), axis=0)
    for step in (-4, -3, -2, -1, 1, 2, 3, 4):
        inverse = (_F(0.1) * _F(step) + _F(most)) / greatest
        scale = _F(1) / inverse
        q = np.minimum(np.rint(x * inverse), _F(most))
        loss = np.add.reduce(_loss(x, scale, q, weights), axis=0)
        better = loss < best
        best, best_inverse = np.where(better, loss, best), np.where(better, inverse, best_inverse)
    q = np.minimum(np.rint(x * best_inverse), _F(most))
    moment = weights * x
    along, square = np.add.reduce(moment * q, axis=0), np.add.reduce(weights * q * q, axis=0)
    for _ in range(5):
        for i in range(len(x)):
            rest = along - moment[i] * q[i]
            rest_square = square - weights[i] * q[i] * q[i]
            able = (rest > 0) & (rest_square > 0)
            new = np.minimum(np.rint(x[i] * rest_square / np.where(able, rest, _F(1))), _F(most))
            rest += moment[i] * new
            rest_square += weights[i] * new * new
            better = able & (new != q[i]) & (rest * rest * square > along * along * rest_square)
            q[i] = np.where(better, new, q[i])
            along, square = np.where(better, rest, along), np.where(better, rest_square, square)
    scale = np.where(square > 0, along / np.where(square > 0, square, _F(1)), _F(0))
    q[:, empty] = 0
    scale[empty] = 0
    return scale, q


def _loss(x: np.ndarray, scale: np.ndarray, q: np.ndarray, weights: np.ndarray) -> np.ndarray:
    difference = x - scale * q
    return weights * difference * difference


def _largest(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each column the largest magnitude, and the first value that has it."""
    size = np.abs(x)
    row = size.argmax(axis=0)[None]
    return np.take_along_axis(size, row, axis=0)[0], np.take_along_axis(x, row, axis=0)[0]


def _whole(values: np.ndarray, low: int, high: int) -> None:
    """Rounded to the nearest whole number, ties to even, within bounds; in place."""
    np.rint(values, out=values)
    np.maximum(values, _F(low), out=values)
    np.minimum(values, _F(high), out=values)
