"""Quantizing: the same bytes as ggml's own quantizer, with an importance matrix and without, and no more error than a
plain rounding makes.
"""

from __future__ import annotations

import tracemalloc

import ggml
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from pellucid.base.array import Array
from pellucid.base.errors import CheckpointError
from pellucid.quant import ENCODERS, dequantize, k_encoders, k_quants, quantize, search

COLUMNS = 1024


def normal(seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((40, COLUMNS)) * 0.02).astype(np.float32)


def odd() -> np.ndarray:
    """Heavy tails, and rows at which a search might stumble."""
    values = (np.random.default_rng(1).standard_t(3, (40, COLUMNS)) * 0.02 + 0.01).astype(np.float32)
    values[0] = 0
    values[1, :300] = 0
    values[2, 256:] = 1
    values[3] = np.abs(values[3]) + 1  # no value below zero
    values[4] = -np.abs(values[4]) - 1
    values[5] *= 1e-12
    values[6, ::7] *= 1000
    values[7, ::2] = -values[7, 1::2]  # the largest magnitude twice, with both signs
    return values


def importance(seed: int = 2) -> np.ndarray:
    return (np.random.default_rng(seed).random(COLUMNS) ** 4 + 1e-3).astype(np.float32)


def importance_with_gaps() -> np.ndarray:
    values = importance()
    values[100:400] = 0
    return values


WEIGHTS = {"none": lambda: None, "importance": importance, "gaps": importance_with_gaps}


@ggml.NEEDS
@pytest.mark.parametrize("values", [normal, odd])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("dtype", ENCODERS)
def test_every_byte_is_the_one_that_ggml_writes(dtype: str, weights: str, values):
    rows, column = values(), WEIGHTS[weights]()
    ours = quantize(rows, dtype, column).data
    different = (ours != ggml.quantize(rows, dtype, column)).sum()
    assert different == 0, f"{different} of {ours.size} bytes"


@ggml.NEEDS
def test_each_expert_is_weighed_by_its_own_importance():
    experts, columns = np.stack([normal(3), normal(4)]), np.stack([importance(5), importance(6)])
    ours = quantize(experts, "q4_k", columns).data
    for expert, values, column in zip(ours, experts, columns, strict=True):
        np.testing.assert_array_equal(expert, ggml.quantize(values, "q4_k", column))


@pytest.mark.parametrize("dtype", k_encoders.ENCODERS)
def test_a_super_block_loses_no_more_than_plain_rounding_of_its_values(dtype: str):
    """In as many steps between a group's own ends, in float64, nothing searched."""
    values, most = normal(), 2 ** int(dtype[1])
    groups = values.reshape(-1, 16 if dtype in ("q2_k", "q3_k", "q6_k") else 32).astype(np.float64)
    if dtype in ("q3_k", "q6_k"):  # no minimum
        step = np.abs(groups).max(1, keepdims=True) / (most / 2)
        plain = np.clip(np.round(groups / step), -most / 2, most / 2 - 1) * step - groups
    else:
        low, high = groups.min(1, keepdims=True), groups.max(1, keepdims=True)
        step = (high - low) / (most - 1)
        plain = np.round((groups - low) / step) * step + low - groups
    ours = dequantize(quantize(values, dtype)).astype(np.float64) - values
    # 2 % for the scales, which are themselves kept in 4 to 8 bits
    assert np.square(ours).sum() < 1.02 * np.square(plain).sum()


@pytest.mark.parametrize("dtype", sorted(ENCODERS.keys() - {"q8_0"}))
def test_importance_lowers_the_error_where_it_is_large(dtype: str):
    values, column = normal(), importance()

    def loss(array: Array) -> float:
        return float((column * np.square(dequantize(array) - values)).sum(dtype=np.float64))

    assert loss(quantize(values, dtype, column)) < 0.97 * loss(quantize(values, dtype))


@pytest.mark.parametrize("dtype", ENCODERS)
def test_threads_and_chunks_change_no_byte(dtype: str):
    values, column = normal(), importance()
    whole = np.concatenate([values] * 8)
    np.testing.assert_array_equal(
        quantize(whole, dtype, column, threads=3).data, np.concatenate([quantize(values, dtype, column).data] * 8)
    )


@pytest.mark.parametrize("dtype", k_encoders.ENCODERS)
@settings(max_examples=30, deadline=None)
@given(values=st_np.arrays(np.float32, (2, 256), elements=st.floats(-1000, 1000, width=32)))
def test_quantizing_what_was_quantized_keeps_it_near(dtype: str, values: np.ndarray):
    """A second rounding may not move a value further than the first did, in its block."""
    once = dequantize(quantize(values, dtype))
    twice = dequantize(quantize(once, dtype))
    span = np.abs(values).max(axis=1, keepdims=True) + 1e-3
    assert (np.abs(once - values) <= span * {"q2_k": 1.1, "q3_k": 0.6}.get(dtype, 0.3)).all()
    assert np.square(twice - once).sum() <= np.square(once - values).sum() * 4 + (span * 1e-2).max() ** 2 * 512


@pytest.mark.parametrize(("bits", "shape"), [(4, (4, 32)), (2, (2, 32)), (1, (1, 32)), (4, (2, 64))])
def test_planes_are_packed_as_they_are_read(bits: int, shape: tuple[int, int]):
    values = np.random.default_rng(0).integers(0, 2**bits, (5, shape[0] * 8 // bits * shape[1]), dtype=np.uint8)
    packed = k_encoders.planes_of(values, bits, shape)
    assert packed.shape == (5, *shape)
    np.testing.assert_array_equal(k_quants.planes(packed, bits), values)


def test_a_scale_found_by_hand():
    """Of 0, 1, 2, 3 times ½ with a minimum of −¼, in two bits, nothing is lost."""
    x = np.tile(np.arange(4, dtype=np.float32) * 0.5 - 0.25, 4)[:, None]
    scale, minimum, q = search.with_minimum(x, np.ones_like(x), 3, start=-0.5, step=0.1, num_steps=15)
    assert (scale[0], minimum[0]) == (0.5, 0.25)
    assert q[:4, 0].tolist() == [0, 1, 2, 3]
    scale, q = search.signed(np.array([[-4, 1, 2, 3]], np.float32).T, np.ones((4, 1), np.float32), 4)
    assert (scale[0], q[:, 0].tolist()) == (1, [0, 5, 6, 7])


@pytest.mark.parametrize("dtype", k_encoders.ENCODERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_values_no_super_block_can_hold_are_refused(dtype: str, bad: float):
    values = np.zeros((2, 256), np.float32)
    values[1, 5] = bad
    with pytest.raises(CheckpointError, match="too large"):
        quantize(values, dtype)


def test_importance_of_another_shape_is_refused():
    with pytest.raises(CheckpointError, match="importance of another shape"):
        quantize(normal(), "q4_k", np.ones(COLUMNS - 1, np.float32))
    with pytest.raises(CheckpointError, match="importance of another shape"):
        quantize(normal(), "q4_k", np.ones((2, COLUMNS), np.float32))


def test_a_big_tensor_is_quantized_with_little_memory_beside_it():
    values = np.random.default_rng(0).standard_normal((1024, 4096)).astype(np.float32)
    tracemalloc.start()
    array = quantize(values, "q4_k", np.ones(4096, np.float32))
    peak = tracemalloc.get_traced_memory()[1] - array.data.nbytes
    tracemalloc.stop()
    assert peak < 6 * 2**20, f"{peak} bytes of temporaries for {values.nbytes} bytes of values"
