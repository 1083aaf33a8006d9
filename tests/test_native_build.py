"""Building programs: without a compiler, with one that fails, in a cache that is not private; and a step that is cut
off.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pellucid.native import build
from pellucid.native.cache import NativeError, folder

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
    assert list(folder("programs").iterdir()) == [first]
    assert first.stat().st_mode & 0o077 == 0
    assert build.library(PROGRAM, flags=("-O1",)) != first


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
