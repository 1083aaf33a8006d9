"""A row's result does not depend on the rows beside it, bit for bit (float32, CPU)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pellucid.model import invariant
from pellucid.model.invariant import (
    Kernel,
    padded_rows,
    probe,
    rows_invariant_gelu_tanh,
    rows_invariant_linear,
    rows_invariant_silu,
)

ACTIVATIONS = {
    "silu": (rows_invariant_silu, F.silu),
    "gelu_tanh": (rows_invariant_gelu_tanh, lambda x: F.gelu(x, approximate="tanh")),
}


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No kernel chosen and nothing checked yet."""
    monkeypatch.setattr(invariant, "_chosen", {})
    monkeypatch.setattr(invariant, "_exact", {})
    return monkeypatch


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(576, 576), (192, 576), (172, 64), (64, 172), (48, 32), (257, 77), (4096, 64)])
def test_a_row_alone_equals_the_row_in_any_batch(shape: tuple[int, int], threads: int) -> None:
    weight, bias, x = noise(*shape), noise(shape[0], seed=1), noise(300, shape[1], seed=2)
    for added in (None, bias):
        alone = torch.cat([rows_invariant_linear(row[None], weight, added) for row in x[:20]])
        for count in (2, 3, 4, 5, 7, 9, 13, 17, 64, 255, 256, 257, 300):
            assert torch.equal(rows_invariant_linear(x[:count], weight, added)[:20], alone[:count]), f"{count} rows"


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 130), st.integers(1, 130), st.integers(1, 70), st.integers(0, 69), st.booleans())
def test_rows_are_equal_for_any_shape_count_and_place(
    out: int, into: int, count: int, place: int, with_bias: bool
) -> None:
    weight, bias, x = noise(out, into), noise(out, seed=1) if with_bias else None, noise(count, into, seed=2)
    row = x[place % count].clone()
    assert torch.equal(rows_invariant_linear(x, weight, bias)[place % count], rows_invariant_linear(row, weight, bias))


def test_the_values_are_those_of_the_matrix_product() -> None:
    weight, bias, x = noise(172, 640), noise(172, seed=1), noise(2, 3, 640, seed=2)
    exact = F.linear(x.double(), weight.double(), bias.double())
    # float32 sums of 640 terms of size about 1: rounding errors grow as √640 · 2⁻²⁴ · √640, some 4e-5
    torch.testing.assert_close(rows_invariant_linear(x, weight, bias).double(), exact, rtol=0, atol=1e-4)
    assert rows_invariant_linear(x[:, :0], weight, bias).shape == (2, 0, 172)


def test_a_kernel_whose_large_calls_differ_is_called_with_fewer_rows(fresh: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def differs_beyond_eight(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        sizes.append(len(x))
        per_row = torch.stack([weight @ row for row in x])
        return per_row if len(x) <= 8 else per_row * (1 + 2**-20)

    fresh.setattr(invariant, "KERNELS", (Kernel(differs_beyond_eight, 2),))
    weight, x = noise(5, 7), noise(40, 7, seed=1)
    rows_invariant_linear(x, weight)
    sizes.clear()
    result = rows_invariant_linear(x, weight)
    assert max(sizes) == 8
    assert torch.equal(result, torch.stack([weight @ row for row in x]))


def test_a_kernel_in_which_the_place_of_a_row_matters_is_passed_over(fresh: pytest.MonkeyPatch) -> None:
    def by_place(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias) * (1 + torch.arange(len(x))[:, None] * 2**-20)

    weight = noise(5, 7)
    assert not probe(Kernel(by_place, 2), (5, 7, False, 1), 2)
    fresh.setattr(invariant, "KERNELS", (Kernel(by_place, 2), invariant.ONE_ROW))
    x = noise(6, 7, seed=1)
    assert torch.equal(rows_invariant_linear(x, weight), torch.cat([F.linear(row[None], weight) for row in x]))


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_which_kernel_serves_a_shape_does_not_depend_on_the_weights_that_come_first(
    value: float, fresh: pytest.MonkeyPatch
) -> None:
    """Zeros, as in LoRA's B at first, are equal in any order of additions: of ordinary numbers of that shape they say
    nothing.
    """

    def differs_beyond_four(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        per_row = torch.stack([weight @ row for row in x])
        return per_row if len(x) <= 4 else per_row * (1 + 2**-20)

    fresh.setattr(invariant, "KERNELS", (Kernel(differs_beyond_four, 2), invariant.ONE_ROW))
    weight, x = noise(5, 7), noise(40, 7, seed=1)
    first = rows_invariant_linear(x, torch.full((5, 7), value))
    assert bool(first.isfinite().all()) == math.isfinite(value)
    assert torch.equal(rows_invariant_linear(x, weight), torch.stack([weight @ row for row in x]))


def test_padding_is_a_coarse_grid_that_never_doubles_the_work() -> None:
    assert [padded_rows(count) for count in (1, 2, 3, 5, 13, 17, 33, 256)] == [2, 2, 4, 8, 16, 32, 48, 256]
    for count in range(2, 600):
        assert count <= padded_rows(count) < 2 * count
        assert padded_rows(padded_rows(count)) == padded_rows(count)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("width", [12, 77, 172, 576])
def test_an_activation_is_the_same_at_any_place(name: str, width: int, threads: int) -> None:
    ours, fused = ACTIVATIONS[name]
    x = noise(511, width) * 4
    together = ours(x)
    for row in (0, 1, 7, 200, 510):
        assert torch.equal(together[row], ours(x[row].clone()))
    torch.testing.assert_close(together, fused(x), rtol=1e-5, atol=1e-6)  # a few roundings apart


def test_silu_far_from_zero_neither_overflows_nor_is_lost() -> None:
    assert rows_invariant_silu(torch.tensor([-200.0, -0.0, 0.0, 200.0])).tolist() == [0.0, 0.0, 0.0, 200.0]
