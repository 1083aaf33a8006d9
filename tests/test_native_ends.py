"""What may happen to a running model: its parameters move to large pages, memory ends, Ctrl-C comes in mid-step."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pellucid.base.array import Array
from pellucid.config import ModelConfig
from pellucid.executor import StepInput
from pellucid.native.build import compiler
from pellucid.native.executor import NativeExecutor

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`"),
    pytest.mark.usefixtures("private_cache"),
]

# A model whose parameters fill several large pages, for a process of its own.
MODEL = """
import numpy as np, sys
from pellucid.base.array import Array
from pellucid.config import weight_shapes
from pellucid.executor import StepInput
from pellucid.families import llama
from pellucid.native.executor import NativeExecutor
config = llama.config(llama.TINY | {"vocab_size": 8192, "hidden_size": 256, "max_position_embeddings": 100000})
random = np.random.default_rng(0)
def weight(shape): return Array.from_numpy(random.normal(size=shape).astype(np.float32))
weights = {name: weight(shape) for name, shape in weight_shapes(config).items()}
def make(): return NativeExecutor(config, weights, threads=2, flags=("-O1",))
"""


def model() -> tuple[ModelConfig, dict[str, Array]]:
    names: dict = {}
    exec(MODEL, names)
    return names["config"], names["weights"]


def process(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MODEL + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def mapped_bytes() -> int:
    """Bytes of parameters files that this process has mapped."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/.parameters." in line:
            start, end = line.split()[0].split("-")
            total += int(end, 16) - int(start, 16)
    return total


def test_the_parameters_move_to_large_pages_while_the_model_runs_and_its_numbers_stay() -> None:
    config, weights = model()
    elsewhere = mapped_bytes()  # by executors of other tests, which may be collected meanwhile
    ids = np.random.default_rng(1).integers(0, config.vocab_size, 200).tolist()
    settled = NativeExecutor(config, weights, threads=2, flags=("-O1",))
    expected = settled.step([StepInput(settled.allocate(200), ids, range(200))]).numpy()  # one step: nothing moves
    settled.close()
    for _ in range(3):
        executor = NativeExecutor(config, weights, threads=2, flags=("-O1",))
        before, slot = mapped_bytes(), executor.allocate(200)
        got = np.concatenate([executor.step([StepInput(slot, [token], (0,))]).numpy() for token in ids])
        np.testing.assert_array_equal(got, expected)
        deadline = time.monotonic() + 20
        while mapped_bytes() > before - 2**22 and time.monotonic() < deadline and has_large_pages():
            time.sleep(0.01)
        assert mapped_bytes() <= before - 2**22 or not has_large_pages()
        executor.close()
        executor = NativeExecutor(config, weights, threads=2, flags=("-O1",))  # and closed in mid-move
        slot = executor.allocate(200)
        for token in ids[:5]:
            executor.step([StepInput(slot, [token], (0,))])
        executor.close()
        assert mapped_bytes() <= elsewhere


def has_large_pages() -> bool:
    """Whether moving is to be expected: Linux, large pages for those who ask, and room for the parameters beside all
    else.
    """
    try:
        return "[never]" not in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space cannot be limited here")
def test_too_little_memory_ends_in_a_memory_error() -> None:
    done = process("""
import resource
executor = make()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**23, resource.RLIM_INFINITY))
for attempt in (lambda: executor.allocate(90000), lambda: executor.allocate(2**32 + 5), make):
    try: attempt()
    except MemoryError as error: print("MemoryError:", error)
slot = executor.allocate(8)  # what there is room for still works
print(executor.step([StepInput(slot, [1, 2], (1,))]).numpy().shape)
""")
    out, err = done.communicate(timeout=120)
    lines = out.splitlines()
    assert lines[:2] == [
        "MemoryError: no memory for a KV cache of 90000 tokens",
        f"MemoryError: no memory for a KV cache of {2**32 + 5} tokens",
    ], err
    assert lines[2].startswith("MemoryError:")
    assert lines[3:] == ["(1, 8192)"]
    assert done.returncode == 0


def test_ctrl_c_in_mid_step_takes_effect_at_once_and_leaves_the_slot_as_it_was() -> None:
    done = process("""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job, as pytest may be, has it ignored
executor = make()
slot = executor.allocate(50000)
executor.step([StepInput(slot, [1, 2, 3], ())])
print("ready", flush=True)
try:
    executor.step([StepInput(slot, [5] * 40000, ())])
except KeyboardInterrupt:
    print(executor.length(slot))
    again = executor.allocate(8)
    executor.step([StepInput(again, [1, 2, 3], ())])
    same = [executor.step([StepInput(its, [4], (0,))]).numpy() for its in (slot, again)]
    print(np.array_equal(*same))
""")
    assert done.stdout is not None
    assert done.stdout.readline() == "ready\n"
    time.sleep(0.3)
    done.send_signal(signal.SIGINT)
    out, err = done.communicate(timeout=30)
    assert (out.split(), done.returncode) == (["3", "True"], 0), err
