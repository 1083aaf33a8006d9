"""bfloat16 and the other plain dtypes, against worked values and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from pellucid.base.array import STORAGE, Array
from pellucid.quant import convert, dequantize, dequantize_into, from_bfloat16, to_bfloat16
from pellucid.quant.float8 import TABLES


def test_rounding_is_to_nearest_and_ties_go_to_even():
    # 1 + 2^-8 lies halfway between 1 and 1 + 2^-7; 1 + 3·2^-8 halfway between 1 + 2^-7 and 1 + 2^-6.
    values = np.array([1.0, 1 + 2**-8, 1 + 2**-8 + 2**-20, 1 + 3 * 2**-8, -1 - 2**-8, 3.4e38], np.float32)
    assert [hex(bits) for bits in to_bfloat16(values)] == ["0x3f80", "0x3f80", "0x3f81", "0x3f82", "0xbf80", "0x7f80"]


def test_every_bfloat16_survives_the_way_to_float32_and_back():
    bits = np.arange(2**16, dtype=np.uint16)
    values = from_bfloat16(bits)
    quiet = np.where(np.isnan(values), bits | 0x40, bits)  # a signalling NaN comes back quiet
    assert (to_bfloat16(values) == quiet).all()
    torchs = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(values, torchs)


@given(st_np.arrays(np.uint32, (64,), elements=st.integers(0, 2**32 - 1)))
def test_rounding_equals_torchs_for_any_bits(bits: np.ndarray):
    values = bits.view(np.float32)
    torchs = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    ours, nan = to_bfloat16(values), np.isnan(values)
    assert (ours[~nan] == torchs[~nan]).all()
    assert np.isnan(from_bfloat16(ours[nan])).all()


@pytest.mark.parametrize("dtype", TABLES)
def test_every_float_of_eight_bits_is_torchs(dtype: str):
    bits = np.arange(256, dtype=np.uint8)
    torchs = torch.from_numpy(bits).view(getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(dequantize(Array(dtype, (256,), bits)), torchs)
    if dtype != "float8_e8m0fnu":  # a scale, beyond what bfloat16 has at its lower end
        np.testing.assert_array_equal(dequantize(convert(Array(dtype, (256,), bits), "bfloat16")), torchs)


@pytest.mark.parametrize("dtype", [dtype for dtype in STORAGE if dtype not in TABLES])
def test_every_plain_dtype_reads_as_float32(dtype: str):
    numbers = np.array([[0, 1], [1, 0], [1, 1]])
    stored = to_bfloat16(numbers.astype(np.float32)) if dtype == "bfloat16" else numbers.astype(STORAGE[dtype])
    array = Array(dtype, (3, 2), stored)
    assert dequantize(array).dtype == np.float32
    assert dequantize(array).tolist() == numbers.tolist()
    transposed = np.empty((2, 3), np.float32).T  # neither side contiguous
    dequantize_into(Array(dtype, (3, 2), np.asfortranarray(stored)), transposed)
    assert transposed.tolist() == numbers.tolist()


def test_float32_is_not_copied():
    values = np.ones((2, 2), np.float32)
    assert dequantize(Array.from_numpy(values)) is values


def test_converting_between_float16_and_bfloat16_rounds_once():
    values = np.random.default_rng(0).standard_normal((70, 5000)).astype(np.float16)  # more than one chunk
    bits = convert(Array.from_numpy(values), "bfloat16").data
    assert (bits == torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)).all()
    huge = Array.from_numpy(np.array([1e30], np.float32))
    assert np.isinf(convert(huge, "float16").data).all()
