"""Mixtures of experts in the native executor: every weight format, experts that are stored unalike, many threads."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from test_native_conformance import QUICK_BUILD, run, token_ids

from pellucid.base.array import Array
from pellucid.config import ModelConfig
from pellucid.families import FAMILIES
from pellucid.model.decoder import Decoder
from pellucid.model.executor import TorchExecutor
from pellucid.model.load import load_decoder, weights_of
from pellucid.native.build import compiler
from pellucid.native.executor import NativeExecutor
from pellucid.native.formats import FORMATS
from pellucid.native.layout import is_router
from pellucid.native.pack import formats_of
from pellucid.quant import convert, dequantize, quantize

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`"),
    pytest.mark.usefixtures("private_cache"),
]
BLOCKS = [name for name in FORMATS if name.startswith("q")]  # those that can be written here


def described(d_model: int, d_ff: int, **experts: object) -> ModelConfig:
    """Qwen3-MoE's tiny description with other widths: a sparse layer, a dense one, a sparse one."""
    family = FAMILIES["qwen3_moe"]
    sizes = {"hidden_size": d_model, "moe_intermediate_size": d_ff, "intermediate_size": 2 * d_ff, "vocab_size": 96}
    config = family.config(family.TINY | sizes | {"num_hidden_layers": 3})
    layers = [replace(one, experts=one.experts and replace(one.experts, **experts)) for one in config.layers]
    return replace(config, layers=tuple(layers))


@cache
def weights(d_model: int, d_ff: int) -> dict[str, Array]:
    decoder, generator = Decoder(described(d_model, d_ff)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            scale = 0.2 if parameter.ndim == 1 else 1.5 / parameter.shape[-1] ** 0.5
            parameter.normal_(1.0 if "norm.weight" in name else 0.0, scale, generator=generator)
    return dict(weights_of(decoder.requires_grad_(False)))


def in_blocks(array: Array, form: str) -> Array:
    return quantize(np.ascontiguousarray(dequantize(array)), form)


def error(config: ModelConfig, arrays: dict[str, Array], **settings: object) -> float:
    """Beside torch with the same weights, of the logits' size."""
    executor = NativeExecutor(config, arrays, threads=2, kv_cache="f32", flags=QUICK_BUILD, **settings)  # type: ignore
    expected = run(TorchExecutor(load_decoder(config, arrays, "float32", "cpu")), token_ids(), [])
    return float(np.linalg.norm(run(executor, token_ids(), [30, 31, 32]) - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("form", BLOCKS)
def test_experts_in_blocks_equal_torch_with_the_same_weights(form: str) -> None:
    """Within what activations of 8 bits cost; where weights have as few, the router sends no row elsewhere."""
    config, arrays = described(256, 256), dict(weights(256, 256))
    arrays |= {name: in_blocks(a, form) for name, a in arrays.items() if ".experts." in name}
    assert formats_of(config, arrays, None)["layers.0.mlp.experts.3.up_proj.weight"] == form
    assert error(config, arrays) <= 0.05


@pytest.mark.parametrize("d_ff", [8, 24, 40, 100])
def test_experts_may_be_of_any_width(d_ff: int) -> None:
    assert error(described(48, d_ff), weights(48, d_ff)) <= 1e-5


def test_experts_that_are_stored_unalike_are_run_as_floats_and_nothing_is_rounded() -> None:
    config, arrays = described(64, 64), dict(weights(64, 64))
    for e, form in ((1, "float16"), (2, "bfloat16"), (5, "q8_0"), (6, "q4_0")):
        name = f"layers.0.mlp.experts.{e}.down_proj.weight"
        arrays[name] = in_blocks(arrays[name], form) if form in BLOCKS else convert(arrays[name], form)
    formats = formats_of(config, arrays, None)
    assert {form for name, form in formats.items() if "layers.0.mlp.experts" in name} == {"float32"}
    assert error(config, arrays) <= 1e-5


def test_what_decides_where_rows_go_is_never_rounded() -> None:
    formats = formats_of(described(64, 64), weights(64, 64), "q4")
    assert {form for name, form in formats.items() if is_router(name)} == {"float32"}
    assert formats["layers.0.mlp.experts.0.up_proj.weight"] == "q4_0"


@pytest.mark.parametrize("experts", [{}, {"weighs": "input"}, {"num_groups": 4, "groups_per_token": 2}], ids=str)
def test_numbers_depend_neither_on_threads_nor_on_how_rows_come_together_bit_for_bit(experts: dict) -> None:
    """One row, a few, and more than a step takes: each has its own way through the experts."""
    config, ids = described(48, 40, **experts), token_ids(300)
    whole = run(NativeExecutor(config, weights(48, 40), threads=1, flags=QUICK_BUILD), ids, [])
    for threads in (2, 3):
        executor = NativeExecutor(config, weights(48, 40), threads=threads, flags=QUICK_BUILD)
        for cuts in ([], [1, 2, 4, 9, 280], list(range(1, 40))):
            np.testing.assert_array_equal(run(executor, ids, cuts), whole)


def test_a_router_whose_scores_are_not_finite_leaves_no_thread_hanging() -> None:
    config, arrays = described(48, 40), dict(weights(48, 40))
    arrays["layers.0.mlp_norm.weight"] = Array.from_numpy(np.full(48, 1e38, np.float32))
    executor = NativeExecutor(config, arrays, threads=3, flags=QUICK_BUILD)
    assert not np.isfinite(run(executor, token_ids(20), [10, 11, 12])).any()
