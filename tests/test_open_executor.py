"""``open_executor``: every option reaches the executor, or is refused; ``open_model`` and it are at the top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import open_executor, open_model
from pellucid.base.errors import ConfigError
from pellucid.checkpoint.sources.resolve import resolve
from pellucid.executor import StepInput
from pellucid.model.executor import TorchExecutor
from pellucid.model.load import load_decoder
from pellucid.native.executor import NativeExecutor
from pellucid.quant import convert

IDS = [1, 40, 7, 99, 23, 5, 300, 11]


@pytest.fixture(scope="module")
def model() -> Path:
    return resolve("tiny")


def logits(executor: NativeExecutor | TorchExecutor) -> np.ndarray:
    slot = executor.allocate(len(IDS))
    return executor.step([StepInput(slot, IDS, range(len(IDS)))]).numpy().copy()


@pytest.mark.parametrize("kv_cache", ["f32", "f16", "int8"])
def test_the_cache_is_kept_as_asked(model: Path, kv_cache: str) -> None:
    executor = open_executor(open_model(model), executor="native", kv_cache=kv_cache)
    assert isinstance(executor, NativeExecutor)
    assert executor.kv_cache == kv_cache


def test_a_smaller_cache_takes_less_memory(model: Path) -> None:
    def slot_bytes(kv_cache: str) -> int:
        executor = open_executor(open_model(model), executor="native", kv_cache=kv_cache)
        assert isinstance(executor, NativeExecutor)
        slot = executor.allocate(256)
        return executor._library.pellucid_slot_bytes(executor._slots[slot].handle)

    whole, half, quarter = map(slot_bytes, ("f32", "f16", "int8"))
    assert 1.8 < whole / half < 2.2
    assert 1.5 < half / quarter < 2.2


def test_native_runs_in_the_dtype_that_is_asked_for(model: Path) -> None:
    checkpoint = open_model(model)
    rows = {}
    for dtype in ("float32", "bfloat16", "float16"):
        rows[dtype] = logits(open_executor(checkpoint, executor="native", dtype=dtype, kv_cache="f32"))  # type: ignore[arg-type]
        weights = {name: convert(checkpoint.weights[name], dtype) for name in checkpoint.weights}
        direct = NativeExecutor(checkpoint.config, weights, kv_cache="f32")
        assert (rows[dtype] == logits(direct)).all()
    exact = logits(TorchExecutor(load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")))
    errors = {dtype: np.abs(row - exact).max() / np.abs(exact).max() for dtype, row in rows.items()}
    assert errors["float32"] < 1e-5
    assert 1e-4 < errors["bfloat16"] < 0.02
    assert errors["float32"] < errors["float16"] < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "onnx"}, "there is no executor 'onnx'"),
        ({"executor": "native", "device": "cuda"}, "the native executor runs on the CPU"),
        ({"executor": "native", "dtype": "float64"}, "does not run in 'float64'"),
        ({"executor": "torch", "kv_cache": "int8"}, "keeps keys and values as it computes them"),
        ({"dtype": "float32", "kv_cache": "int8"}, "--executor native"),
    ],
)
def test_what_an_executor_cannot_do_is_refused(model: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_executor(open_model(model), **options)


def test_threads_are_the_executors(model: Path) -> None:
    executor = open_executor(open_model(model), executor="native", threads=1)
    assert isinstance(executor, NativeExecutor)
    assert executor.threads == 1
