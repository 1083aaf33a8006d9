"""The native KV cache: kept in 16 bits or 8, rings where a layer has a sliding window; no number else depends on it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_native_conformance import run, token_ids

from pellucid.auto import open_executor
from pellucid.base.array import Array
from pellucid.base.errors import ConfigError, UnsupportedError
from pellucid.checkpoint.open import open_checkpoint
from pellucid.config import ModelConfig, weight_shapes
from pellucid.executor import StepInput
from pellucid.families import llama
from pellucid.native import executor as module
from pellucid.native import program
from pellucid.native.build import compiler
from pellucid.native.executor import NativeExecutor

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`"),
    pytest.mark.usefixtures("private_cache"),
]
PATHS = {"native": (), "avx2": ("-mno-avx512f",), "plain": ("-DPLAIN_C",)}
KINDS = ("f32", "f16", "int8")
LONG = 1500  # of a window of 40, whose ring is of two chunks of 512 positions


def windowed(*windows: int | None, head_dim: int = 16) -> tuple[ModelConfig, dict[str, Array]]:
    """A Llama whose layers see so many positions (None: all), with 6 heads of which 3 share a key-value head."""
    shape = {
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": head_dim,
        "num_hidden_layers": len(windows),
    }
    config = llama.config(llama.TINY | shape | {"max_position_embeddings": 4096})
    layers = [
        replace(layer, mixer=replace(layer.mixer, window=window))
        for layer, window in zip(config.layers, windows, strict=True)
    ]
    config = replace(config, layers=tuple(layers))
    generator = np.random.default_rng(3)
    sizes = {name: 1.0 if len(shape) == 1 else 1.5 / shape[-1] ** 0.5 for name, shape in weight_shapes(config).items()}
    return config, {
        name: Array.from_numpy((generator.normal(0, sizes[name], shape)).astype(np.float32))
        for name, shape in weight_shapes(config).items()
    }


@cache
def native(
    kind: str = "f32",
    path: str = "native",
    threads: int = 2,
    head_dim: int = 16,
    windows: tuple[int | None, ...] = (40, None),
) -> NativeExecutor:
    config, weights = windowed(*windows, head_dim=head_dim)
    return NativeExecutor(config, weights, threads=threads, kv_cache=kind, flags=("-O1", *PATHS[path]))


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> NativeExecutor:
    """The same model, whose windows' rings never come round."""
    text = program.text_of

    def file(name: str) -> str:
        return text(name).replace("return ring < chunks ? (int)ring : chunks;", "return (void)ring, chunks;")

    config, weights = windowed(40, None)
    with monkeypatch.context() as while_it_is_written:
        while_it_is_written.setattr(program, "text_of", file)
        made = NativeExecutor(config, weights, threads=2, flags=("-O1",))
    monkeypatch.setattr(module, "ring_of", lambda window: 10**6)
    return made


def test_rings_change_no_number_over_many_windows_however_a_text_is_split(unlimited: NativeExecutor) -> None:
    ids = token_ids(LONG)
    whole = run(unlimited, ids, [])
    for cuts in ([], [1000], [300, 511, 512, 1024, *range(1400, LONG)], [*range(37, LONG, 37)]):
        np.testing.assert_array_equal(run(native(), ids, cuts), whole)


def test_batched_requests_with_rings_equal_each_alone_without(unlimited: NativeExecutor) -> None:
    texts = [token_ids(1200 + 100 * i, seed=i) for i in range(3)]
    expected = [run(unlimited, ids, [])[-60:] for ids in texts]
    executor = native()
    slots = [executor.allocate(len(ids)) for ids in texts]
    for slot, ids in zip(slots, texts, strict=True):
        executor.step([StepInput(slot, ids[:-60], ())])
    got: list[list[np.ndarray]] = [[] for _ in texts]
    for at in range(0, 60, 4):  # 4 tokens of each at a time
        rows = iter(
            executor.step(
                [StepInput(slot, ids[-60:][at : at + 4], range(4)) for slot, ids in zip(slots, texts, strict=True)]
            ).numpy()
        )
        for mine in got:
            mine += [next(rows) for _ in range(4)]
    for slot in slots:
        executor.free(slot)
    np.testing.assert_array_equal(np.array(got), np.array(expected))


def test_a_window_takes_back_what_guesses_may_need_and_says_what_it_cannot() -> None:
    executor, ids = native(), token_ids(LONG)
    whole = run(executor, ids, [])
    slot = executor.allocate(LONG)
    executor.step([StepInput(slot, ids[:1200], ())])
    for _ in range(3):  # 32 guesses, all wrong, after as long a step as there is
        executor.step([StepInput(slot, [1] * (program.MAX_ROWS + program.TAKE_BACK), ())])
        executor.truncate(slot, 1200)
    np.testing.assert_array_equal(executor.step([StepInput(slot, ids[1200:], range(300))]).numpy(), whole[1200:])
    least = executor._slots[slot].least
    assert 0 < least <= LONG - program.MAX_ROWS - program.TAKE_BACK
    for attempt in (lambda: executor.truncate(slot, least - 1), lambda: executor.fork(slot, LONG, least - 1)):
        with pytest.raises(UnsupportedError, match=f"at least {least} tokens"):
            attempt()
    executor.truncate(slot, least)
    np.testing.assert_array_equal(
        executor.step([StepInput(slot, ids[least:], range(LONG - least))]).numpy(), whole[least:]
    )
    executor.truncate(slot, 0)
    np.testing.assert_array_equal(executor.step([StepInput(slot, ids[:50], range(50))]).numpy(), whole[:50])
    executor.free(slot)


@pytest.mark.parametrize("room", [LONG, 1030, 4000])
def test_forks_of_a_ring_continue_alike_in_rings_and_in_slots_too_small_for_one(room: int) -> None:
    executor, ids = native(), token_ids(LONG)
    whole = run(executor, ids, [])
    slot = executor.allocate(LONG)
    executor.step([StepInput(slot, ids[:1010], ())])
    forks = [executor.fork(slot, room), executor.fork(slot, room, 900)]
    forks.append(executor.fork(forks[0], LONG, 1000))
    executor.step([StepInput(slot, [1] * 400, ())])  # the origin goes its own way
    for fork in forks:
        at, end = executor.length(fork), min(room, LONG)
        np.testing.assert_array_equal(
            executor.step([StepInput(fork, ids[at:end], range(end - at))]).numpy(), whole[at:end]
        )
    for its in (slot, *forks):
        executor.free(its)


@pytest.mark.parametrize(
    ("length", "rows", "left"), [(900, 64, 900), (100, 1280, 0)]
)  # 1,024 positions are in the ring
def test_a_step_cut_off_leaves_a_slot_as_it_was_or_empty_where_its_window_has_moved_on(
    length: int, rows: int, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, ids = native(), token_ids(LONG)
    whole = run(executor, ids, [])
    slot = executor.allocate(LONG)
    executor.step([StepInput(slot, ids[:length], ())])
    last = -(-rows // program.MAX_ROWS)
    runs, compute = [], executor._run

    def cut_off(*given: Any) -> None:
        compute(*given)
        runs.append(given)
        if len(runs) == last:
            raise KeyboardInterrupt

    monkeypatch.setattr(executor, "_run", cut_off)
    with pytest.raises(KeyboardInterrupt):
        executor.step([StepInput(slot, [2] * rows, ())])
    monkeypatch.undo()
    assert executor.length(slot) == left
    np.testing.assert_array_equal(
        executor.step([StepInput(slot, ids[left:], range(LONG - left))]).numpy(), whole[left:]
    )
    executor.free(slot)


def test_memory_grows_with_the_window_alone() -> None:
    executor = native()
    bytes_of = executor._library.pellucid_slot_bytes
    short, long = (executor.allocate(capacity) for capacity in (2**10, 2**16))
    sizes = [bytes_of(executor._slots[slot].handle) for slot in (short, long)]
    one_layer = 2 * 2 * 16 * 4  # keys and values of two heads, bytes a position
    assert sizes[0] <= one_layer * (1024 + 1024)
    assert sizes[1] <= one_layer * (1024 + 2**16)
    for slot in (short, long):
        executor.free(slot)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_depend_on_no_split_and_no_neighbour_however_they_are_kept_bit_for_bit(kind: str, path: str) -> None:
    ids = token_ids(620)
    executor = native(kind, path)
    whole = run(executor, ids, [])
    for cuts in ([300, 511, 512], [7, 8, 17, *range(600, 620)]):
        np.testing.assert_array_equal(run(executor, ids, cuts), whole)
    slots = [executor.allocate(620) for _ in range(3)]
    together = executor.step(
        [StepInput(slots[0], ids[:2], ()), StepInput(slots[1], ids, range(620)), StepInput(slots[2], [9] * 50, ())]
    )
    np.testing.assert_array_equal(together.numpy(), whole)
    for slot in slots:
        executor.free(slot)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("head_dim", [6, 16, 80])  # no whole four; a tile; two and a half blocks
def test_fewer_bits_stay_near_the_floats(path: str, head_dim: int) -> None:
    """Relative to the logits' own size. Random weights of size 1.5 amplify: f16 has 11 bits, bf16 8, int8 7.5."""
    ids = token_ids(200)
    exact, half, bytes_ = (run(native(kind, path, head_dim=head_dim), ids, [150]) for kind in KINDS)
    errors = [np.linalg.norm(got - exact) / np.linalg.norm(exact) for got in (half, bytes_)]
    assert 0 < errors[0] < 0.02, errors
    assert 0 < errors[1] < 0.03, errors


def test_int8_halves_the_memory_of_f16() -> None:
    """Where heads have 64 dimensions: 68 bytes for them in place of 128."""
    sizes = []
    for kind in ("f16", "int8"):
        executor = native(kind, head_dim=64)
        slot = executor.allocate(2**15)
        sizes.append(executor._library.pellucid_slot_bytes(executor._slots[slot].handle))
        executor.free(slot)
    assert sizes[1] / sizes[0] < 0.54


def test_a_kind_there_is_not_is_refused() -> None:
    config, weights = windowed(None)
    with pytest.raises(ConfigError, match="f32, f16, int8"):
        NativeExecutor(config, weights, kv_cache="int4")


def test_torch_refuses_to_keep_its_cache_otherwise(stories: Path) -> None:
    with pytest.raises(ConfigError, match="--executor native"):
        open_executor(open_checkpoint(stories / "stories260K.bin"), executor="torch", kv_cache="int8")
