"""Building programs: without a compiler, with one that fails, in a cache that is not private; and a step that is cut
off.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pellucid.native import build
from pellucid.native.cache import NativeError, folder, sweep

PROGRAM = "int answer(void) { return 42; }"


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "compiler", lambda: None)
    with pytest.raises(NativeError, match=r"no C compiler\n.*install gcc or clang, or `pip install ziglang`"):
        build.library(PROGRAM)


@pytest.mark.skipif(build.compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`")
def test_a_program_is_compiled_once_and_nothing_half_written_stays(capfd: pytest.CaptureFixture[str]) -> None:
    first, said = build.library(PROGRAM), capfd.readouterr().err
    assert build.library(PROGRAM) == first
    assert ("compiling" in said, "compiling" in capfd.readouterr().err) == (True, False)
    with pytest.raises(NativeError, match="compiler failed"):
        build.library("this is not C")
    kept = {path for path in folder("programs").iterdir() if not path.name.endswith(".lock")}
    assert kept == {first, build.sum_of(first)}
    assert first.stat().st_mode & 0o077 == 0
    assert build.library(PROGRAM, flags=("-O1",)) != first


@pytest.mark.skipif(build.compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`")
@pytest.mark.parametrize("damage", ["empty", "cut", "a bit", "no sum", "another sum"])
def test_a_damaged_program_is_compiled_anew(damage: str) -> None:
    path = build.library(PROGRAM)
    whole = path.read_bytes()
    flipped = bytes([whole[100] ^ 4])
    if damage == "no sum":
        build.sum_of(path).unlink()
    elif damage == "another sum":
        build.sum_of(path).write_text("0" * 64)
    else:
        path.write_bytes({"empty": b"", "cut": whole[:500], "a bit": whole[:100] + flipped + whole[101:]}[damage])
    assert build.library(PROGRAM) == path
    assert build.is_sound(path)
    ctypes.CDLL(str(path))


@pytest.mark.skipif(build.compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`")
def test_processes_that_want_the_same_program_at_once_compile_it_once() -> None:
    code = f"from pellucid.native import build; print(build.library({PROGRAM!r}))"
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60) for process in running]
    assert len({out for out, _ in said}) == 1
    assert sum("compiling" in error for _, error in said) == 1
    assert build.is_sound(Path(said[0][0].strip()))


def test_leftovers_of_killed_processes_and_what_is_used_least_are_swept() -> None:
    where, now = folder("parameters"), time.time()
    names = {".build.dead": 7200, ".parameters.dead": 7200, ".parameters.live": 10, "old": 9000, "less": 500, "new": 5}
    for name, age in names.items():
        path = where / name
        if name.startswith(".build"):
            path.mkdir()
            (path / "run.c").write_text("")
        else:
            path.write_bytes(b"x" * 100)
        os.utime(path, (now - age, now - age))
    sweep(where, kept_bytes=150, kept_seconds=8000)
    assert {path.name for path in where.iterdir()} == {".parameters.live", "new"}


def test_a_full_disk_gets_back_what_was_used_least(monkeypatch: pytest.MonkeyPatch) -> None:
    where, now = folder("parameters"), time.time()
    for place in range(6):
        (where / f"{place}").write_bytes(b"x" * 100)
        os.utime(where / f"{place}", (now - place, now - place))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=250))
    sweep(where, kept_bytes=10**6, kept_seconds=8000, but={where / "5"})
    assert {path.name for path in where.iterdir()} == {"0", "5"}, "(250 + 600) / 4"


def test_a_cache_that_others_may_write_to_is_refused(private_cache: Path) -> None:
    folder("programs").chmod(0o777)
    with pytest.raises(NativeError, match="not private"):
        build.library(PROGRAM)
    folder("parameters")  # its sibling is sound
    (private_cache / "pellucid" / "native" / "programs").rmdir()
    (private_cache / "elsewhere").mkdir()
    (private_cache / "pellucid" / "native" / "programs").symlink_to(private_cache / "elsewhere")
    with pytest.raises(NativeError, match="not private"):
        build.library(PROGRAM)


@pytest.mark.skipif(build.compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`")
def test_running_a_model_imports_no_torch() -> None:
    code = """
import sys
sys.modules["torch"] = None
import numpy as np
from pellucid.base.array import Array
from pellucid.config import weight_shapes
from pellucid.executor import StepInput
from pellucid.families import llama
from pellucid.native.executor import NativeExecutor
config = llama.config(llama.TINY)
weights = {name: Array.from_numpy(np.ones(shape, np.float32)) for name, shape in weight_shapes(config).items()}
executor = NativeExecutor(config, weights, flags=("-O1",))
print(executor.step([StepInput(executor.allocate(4), [1, 2], (1,))]).numpy().shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(1, 96)", done.stderr
