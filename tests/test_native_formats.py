"""Every weight format of the native executor: tiles hold the file's own numbers, and products are those numbers'
products, on each path.
"""

from __future__ import annotations

import ctypes
from functools import cache
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from pellucid.base.array import BLOCKS, Array
from pellucid.config import ModelConfig, weight_shapes
from pellucid.executor import StepInput
from pellucid.families import llama
from pellucid.model.executor import TorchExecutor
from pellucid.model.load import load_decoder
from pellucid.native import build
from pellucid.native.build import compiler
from pellucid.native.executor import NativeExecutor
from pellucid.native.formats import FORMATS, own_format, to_tiles
from pellucid.native.layout import plan
from pellucid.native.program import source
from pellucid.quant import LAYOUTS, convert, dequantize
from pellucid.quant.exact import WIDER, widened

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`"),
    pytest.mark.usefixtures("private_cache"),
]
EVERY = pytest.mark.parametrize("dtype", FORMATS)
ROWS, COLUMNS = 32, 512
PATHS = {"native": (), "avx2": ("-mno-avx512f",), "plain": ("-DPLAIN_C",)}

EXPORTS = r"""
EXPORT float test_weight(int format, const uint8_t *tile, int row, int column) {
    return weight_at(format, tile, row, column);
}
// y[row of x][row of w] = x wᵀ
EXPORT void test_product(int format, const uint8_t *tiles, int rows, int columns, const float *x, int count, float *y) {
    Panels panels;
    float raw[64][TILE];
    if (!make_panels(&panels, (size_t)count, columns)) return;
    for (int r = 0; r < count; r++) fill(&panels, r, count, x + (size_t)r * columns, columns, form_for(format));
    for (int t = 0; t < rows / TILE; t++) {
        for (int first = 0, size; first < count; first += size) {
            size = panel_size(count - first);
            TileProduct *product = PRODUCTS[format][size == 8 ? 3 : size / 2];
            product(
                tiles + t * tile_bytes(format, columns), columns / 32, &panels, (size_t)first * columns, raw + first);
        }
        for (int r = 0; r < count; r++) memcpy(y + (size_t)r * rows + t * TILE, raw[r], sizeof raw[r]);
    }
    free_panels(&panels);
}
"""


def random_array(dtype: str, shape: tuple[int, int], seed: int = 0) -> Array:
    """Weights of about 0.05; in blocks, every bit but the scales' at random."""
    generator = np.random.default_rng(seed)
    if dtype not in BLOCKS:
        return convert(Array.from_numpy(generator.normal(0, 0.05, shape).astype(np.float32)), dtype)
    elements, size = BLOCKS[dtype]
    blocks = generator.integers(0, 256, (shape[0], shape[1] // elements * size), np.uint8).view(LAYOUTS[dtype])
    small = {"q8_0": 5e-4, "q4_0": 0.01, "q4_1": 0.01, "q5_0": 0.01, "q4_k": 4e-4, "q5_k": 2e-4, "q6_k": 5e-5,
             "iq4_nl": 1e-3, "iq4_xs": 4e-5}  # fmt: skip
    if dtype == "mxfp4":
        blocks["e"] = generator.integers(119, 122, blocks.shape)
        return Array(dtype, shape, blocks.view(np.uint8))
    blocks["d"] = generator.normal(0, small[dtype], blocks.shape)
    for minimum in {"m", "dmin"} & set(blocks.dtype.names or ()):
        blocks[minimum] = generator.normal(0, {"m": 0.05, "dmin": 1e-3}[minimum], blocks.shape)
    return Array(dtype, shape, blocks.view(np.uint8))


def every_format() -> tuple[ModelConfig, dict[str, Array]]:
    """A Llama of two layers, each format in one of its matrices or more."""
    tiny = llama.TINY | {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "tie_word_embeddings": False,
    }
    config = llama.config(tiny)
    formats, weights = cycle(FORMATS), {}
    for i, (name, shape) in enumerate(weight_shapes(config).items()):
        weights[name] = (
            random_array(next(formats), shape, i) if len(shape) == 2 else Array.from_numpy(np.ones(shape, np.float32))
        )
    return config, weights


@cache
def library(path: str) -> ctypes.CDLL:
    config, weights = every_format()
    layout = plan(config, {name: array.dtype for name, array in weights.items()})
    made = ctypes.CDLL(
        str(build.library(source(config, layout, kv_cache="f16") + EXPORTS, flags=("-O1", *PATHS[path])))
    )
    made.test_weight.restype = ctypes.c_float
    return made


def c_format(dtype: str) -> int:
    return list(FORMATS).index(dtype)


def product(path: str, array: Array, x: np.ndarray) -> np.ndarray:
    tiles, y = to_tiles(array, array.dtype, *array.shape), np.full((len(x), array.shape[0]), np.nan, np.float32)
    x = np.ascontiguousarray(x, np.float32)
    library(path).test_product(
        c_format(array.dtype),
        tiles.ctypes.data_as(ctypes.c_void_p),
        *array.shape,
        x.ctypes.data_as(ctypes.c_void_p),
        len(x),
        y.ctypes.data_as(ctypes.c_void_p),
    )
    return y


def runs_here(path: str) -> bool:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return path != "avx2" or "avx2" in flags


def whole_numbers(count: int) -> np.ndarray:
    """Activations that int8 (with 127 in each 16) and bf16 hold exactly."""
    x = np.random.default_rng(1).integers(-127, 128, (count, COLUMNS)).astype(np.float32)
    x[:, ::16] = 127
    return x


@EVERY
def test_a_tile_holds_the_arrays_own_values(dtype: str) -> None:
    array = random_array(dtype, (ROWS, COLUMNS))
    tiles = to_tiles(array, dtype, ROWS, COLUMNS)
    values, made = dequantize(array), library("plain")
    size = FORMATS[dtype].tile_bytes(COLUMNS)
    data = np.ascontiguousarray(tiles).tobytes()
    for row in (0, 5, 15, 16, 31):
        tile = data[row // 16 * size : (row // 16 + 1) * size]
        got = [made.test_weight(c_format(dtype), tile, row % 16, column) for column in range(COLUMNS)]
        np.testing.assert_allclose(got, values[row], rtol=3e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", WIDER)
def test_blocks_without_a_kernel_are_widened_and_nothing_is_lost(dtype: str) -> None:
    elements, size = BLOCKS.get(dtype, (1, 1))
    stored = np.random.default_rng(0).integers(0, 256, (ROWS, COLUMNS // elements * size), np.uint8)
    if dtype in LAYOUTS and "d" in (LAYOUTS[dtype].names or ()):
        stored.view(LAYOUTS[dtype])["d"] = np.random.default_rng(1).normal(0, 0.01, (ROWS, COLUMNS // elements))
    array = Array(dtype, (ROWS, COLUMNS), stored)
    wide = widened(array)
    assert own_format(array) == wide.dtype == WIDER[dtype]
    assert wide.dtype in FORMATS
    np.testing.assert_array_equal(dequantize(wide), dequantize(array))
    np.testing.assert_array_equal(to_tiles(array, wide.dtype, ROWS, COLUMNS), to_tiles(wide, wide.dtype, ROWS, COLUMNS))


@pytest.mark.parametrize("dtype", [dtype for dtype in BLOCKS if dtype not in {*FORMATS, *WIDER}])
def test_blocks_without_a_wider_relative_are_float32(dtype: str) -> None:
    elements, size = BLOCKS[dtype]
    array = Array(dtype, (16, elements), np.zeros((16, size), np.uint8))
    assert own_format(array) == "float32"
    assert not to_tiles(array, "float32", 16, 256).any()


@EVERY
@pytest.mark.parametrize("path", PATHS)
def test_products_with_exact_activations_are_exact(path: str, dtype: str) -> None:
    """Against float64 over the dequantized weights: 2e-6 of the terms' size, float32 sums and nothing else."""
    if not runs_here(path):
        pytest.skip("this processor has no AVX2")
    array, x = random_array(dtype, (ROWS, COLUMNS)), whole_numbers(15)
    wide = dequantize(array).astype(np.float64)
    size = np.abs(x) @ np.abs(wide).T
    assert (np.abs(product(path, array, x) - x @ wide.T) / size).max() < 2e-6


@EVERY
@pytest.mark.parametrize("path", PATHS)
def test_a_row_of_a_product_does_not_depend_on_its_neighbours_bit_for_bit(path: str, dtype: str) -> None:
    if not runs_here(path):
        pytest.skip("this processor has no AVX2")
    array, x = random_array(dtype, (ROWS, COLUMNS)), np.random.default_rng(2).normal(size=(15, COLUMNS))
    alone = np.concatenate([product(path, array, row[None]) for row in x])
    for count in (2, 3, 4, 7, 8, 15):
        np.testing.assert_array_equal(product(path, array, x[:count]), alone[:count])


@EVERY
def test_int8_activations_cost_less_than_a_hundredth(dtype: str) -> None:
    """Relative to the output's own size, for normal activations: 0.4–0.7 % for int8, 0.2 % for bf16, nothing for
    floats.
    """
    array, x = (
        random_array(dtype, (ROWS, COLUMNS)),
        np.random.default_rng(3).normal(size=(16, COLUMNS)).astype(np.float32),
    )
    exact = x @ dequantize(array).T
    error = np.linalg.norm(product("native", array, x) - exact) / np.linalg.norm(exact)
    assert error < {"float32": 1e-6, "float16": 1e-6, "bfloat16": 4e-3}.get(dtype, 1e-2)


def test_a_model_of_every_format_is_close_to_torch_on_the_same_weights() -> None:
    config, weights = every_format()
    native = NativeExecutor(config, weights, threads=2, flags=("-O1",))
    torch = TorchExecutor(load_decoder(config, weights, "float32", "cpu"))
    ids = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46]
    rows = [
        executor.step([StepInput(executor.allocate(16), ids, range(len(ids)))]).numpy() for executor in (native, torch)
    ]
    # Sixteen products with 1 % of int8 noise each, amplified by a softmax over random scores.
    assert np.linalg.norm(rows[0] - rows[1]) / np.linalg.norm(rows[1]) < 0.05
