"""GGML's block formats against hand-made blocks and the ``gguf`` package."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf import quants as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from pellucid.base.array import BLOCKS, Array, row_bytes
from pellucid.base.errors import CheckpointError
from pellucid.quant import CHUNK, DECODERS, LAYOUTS, convert, dequantize, dequantize_into, is_finite, quantize
from pellucid.quant.blocks32 import ENCODERS

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:gguf")  # the oracle multiplies inf scales by zeros


def gguf_type(dtype: str) -> GGMLQuantizationType:
    return GGMLQuantizationType[dtype.upper()]


OF_THE_PACKAGE = [dtype for dtype in BLOCKS if dtype not in ("q1_0", "q2_0")]  # newer than it


def random_blocks(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Any bytes are a valid block: scales of inf and NaN among them."""
    rng = np.random.default_rng(seed)
    return Array(dtype, shape, rng.integers(0, 256, (*shape[:-1], row_bytes(dtype, shape[-1])), dtype=np.uint8))


def test_a_q4_0_block_written_by_hand():
    block = np.zeros((), LAYOUTS["q4_0"])
    block["d"] = 0.5
    block["qs"] = (
        [0x98] + [0x88] * 14 + [0x0F]
    )  # weight 0: 8 → 0; weight 16: 9 → 0.5; weight 15: 15 → 3.5; weight 31: 0 → −4
    values = dequantize(Array.from_buffer("q4_0", (32,), block.tobytes()))
    expected = np.zeros(32, np.float32)
    expected[[16, 15, 31]] = 0.5, 3.5, -4.0
    assert values.tolist() == expected.tolist()


def test_layouts_have_the_sizes_of_the_table():
    assert {name: layout.itemsize for name, layout in LAYOUTS.items()} == {
        name: size for name, (_, size) in BLOCKS.items()
    }
    assert LAYOUTS.keys() == DECODERS.keys()


@pytest.mark.parametrize("dtype", OF_THE_PACKAGE)
def test_dequantizing_any_bytes_equals_the_gguf_package_exactly(dtype: str):
    array = random_blocks(dtype, (7, 1024))
    np.testing.assert_array_equal(dequantize(array), oracle.dequantize(array.data, gguf_type(dtype)))


@pytest.mark.parametrize("dtype", BLOCKS)
def test_views_dequantize_like_the_whole(dtype: str):
    """Rows out of order, a slice, three axes, an ``out`` with gaps, more than one chunk."""
    array = random_blocks(dtype, (6, 4, 512), seed=1)
    whole = dequantize(array)
    reversed_rows = array.with_data(array.data[::-1])
    np.testing.assert_array_equal(dequantize(reversed_rows), whole[::-1])
    np.testing.assert_array_equal(dequantize(array.with_data(array.data[2:3, 1:])), whole[2:3, 1:])
    wide = np.full((6, 4, 600), -1, np.float32)
    dequantize_into(array, wide[..., 8:520])
    np.testing.assert_array_equal(wide[..., 8:520], whole)
    assert (wide[..., :8] == -1).all()
    assert (wide[..., 520:] == -1).all()
    long = random_blocks(dtype, (CHUNK + 512,), seed=2)
    parts = [dequantize(long.with_data(part)) for part in np.split(long.data, [row_bytes(dtype, 512)])]
    np.testing.assert_array_equal(dequantize(long), np.concatenate(parts))


@pytest.mark.parametrize("dtype", OF_THE_PACKAGE)
def test_blocks_of_one_byte_equal_the_gguf_package_exactly(dtype: str):
    """All zeros, all ones, every code at once with every scale: ends of the grids, subnormal and infinite scales."""
    elements, size = BLOCKS[dtype]
    array = Array(dtype, (256, elements), np.repeat(np.arange(256, dtype=np.uint8)[:, None], size, axis=1))
    np.testing.assert_array_equal(dequantize(array), oracle.dequantize(array.data, gguf_type(dtype)))


def test_blocks_of_one_and_two_bits_written_by_hand():
    """Compared once with llama.cpp's own ``to_float`` (ggml 0.25), which the gguf package cannot yet stand for."""
    one, two = np.zeros((), LAYOUTS["q1_0"]), np.zeros((), LAYOUTS["q2_0"])
    one["d"], two["d"] = 0.5, 0.5
    one["qs"][0], two["qs"][[0, 15]] = 0b10010000, (0b11100100, 0b11000000)
    values = dequantize(Array.from_buffer("q1_0", (128,), one.tobytes()))
    assert np.flatnonzero(values == 0.5).tolist() == [4, 7]
    assert (np.delete(values, [4, 7]) == -0.5).all()
    values = dequantize(Array.from_buffer("q2_0", (64,), two.tobytes()))
    assert values[:4].tolist() == [-0.5, 0, 0.5, 1.0]
    assert values[60:].tolist() == [-0.5, -0.5, -0.5, 1.0]


@pytest.mark.parametrize("dtype", BLOCKS)
def test_a_block_is_finite_when_all_of_its_values_are(dtype: str):
    array = random_blocks(dtype, (64, BLOCKS[dtype][0]), seed=4)
    for row in array.data:
        one = array.with_data(row[None])
        assert is_finite(one) == bool(np.isfinite(dequantize(one)).all())


def test_a_big_tensor_needs_little_memory_beside_its_destination():
    array, out = random_blocks("q4_k", (4096, 4096)), np.empty((4096, 4096), np.float32)
    tracemalloc.start()
    dequantize_into(array, out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20, f"{peak} bytes of temporaries for {out.nbytes} bytes of values"


@pytest.mark.parametrize("dtype", ENCODERS)
def test_quantizing_equals_the_gguf_package_bit_for_bit(dtype: str):
    rng = np.random.default_rng(3)
    values = (rng.standard_normal((64, 256)) * 10.0 ** rng.uniform(-6, 3, (64, 1))).astype(np.float32)
    values[0] = 0
    values[1, :32] = 1  # no spread: q4_1's scale is 0
    values[2, ::2] = -values[2, 1::2]  # the largest magnitude twice, with both signs
    assert quantize(values, dtype).data.tobytes() == oracle.quantize(values, gguf_type(dtype)).tobytes()


finite = st.floats(-1000, 1000, width=32)


@pytest.mark.parametrize("dtype", ENCODERS)
@settings(max_examples=100, deadline=None)
@given(values=st_np.arrays(np.float32, (2, 64), elements=finite))
def test_quantized_values_lie_within_a_step_of_the_originals(dtype: str, values: np.ndarray):
    array = quantize(values, dtype)
    steps = np.abs(array.data.reshape(-1).view(LAYOUTS[dtype])["d"].astype(np.float32))[:, None]
    wrong = np.abs(dequantize(array) - values).reshape(-1, 32)
    # Half a step by rounding; q4_0 and q5_0 cut the far side off at 7 of 8 steps. The float16 scale is wrong by 2^-11
    # of itself, or by 2^-25 where it is subnormal, up to 127 steps from zero.
    slack = 2**-10 * np.abs(values).reshape(-1, 32).max(axis=1, keepdims=True) + 128 * 2**-25
    assert (wrong <= steps * (1.0 if dtype in ("q4_0", "q5_0") else 0.5) + slack).all()


@pytest.mark.parametrize("dtype", ENCODERS)
def test_values_too_small_for_a_scale_become_zero(dtype: str):
    assert not dequantize(quantize(np.full((1, 32), 1e-42, np.float32), dtype)).any()


@pytest.mark.parametrize("dtype", ENCODERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_values_no_block_can_hold_are_refused(dtype: str, bad: float):
    values = np.zeros((2, 32), np.float32)
    values[1, 5] = bad
    with pytest.raises(CheckpointError, match="too large"):
        quantize(values, dtype)


def test_what_cannot_be_quantized_is_refused():
    with pytest.raises(CheckpointError, match="no encoder for q7_k"):
        quantize(np.zeros((1, 256), np.float32), "q7_k")
    with pytest.raises(CheckpointError, match="blocks of 32"):
        quantize(np.zeros((1, 33), np.float32), "q8_0")
    with pytest.raises(CheckpointError, match="float32"):
        dequantize_into(random_blocks("q8_0", (2, 32)), np.empty((2, 32)))


def test_converting_goes_through_the_values():
    array = quantize(np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64), "q8_0")
    values = dequantize(array)
    for dtype in ("float32", "float16", "bfloat16"):
        converted = convert(array, dtype)
        assert (converted.dtype, converted.shape) == (dtype, (2, 64))
        np.testing.assert_allclose(dequantize(converted), values, rtol=2**-8)  # bfloat16 keeps 8 bits
        assert convert(converted, dtype) is converted
    with pytest.raises(CheckpointError, match="cannot be converted to int8"):
        convert(array, "int8")
