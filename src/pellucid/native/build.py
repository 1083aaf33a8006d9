"""Compiling a program for this machine, once: the result is kept in the user's cache, keyed by source, compiler, flags
and processor.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from pellucid.native.cache import NativeError, folder

FLAGS = (
    "-std=gnu11",
    "-O3",
    "-march=native",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-pthread",
)
LIBRARY = ("-shared", "-fPIC")
MAX_SECONDS = 120


def compiler() -> list[str] | None:
    """``$CC``, cc, clang or gcc; else the ``ziglang`` package's; else None."""
    for name in (os.environ.get("CC"), "cc", "clang", "gcc"):
        if name and (found := shutil.which(name)):
            return [found]
    try:
        import ziglang  # pyright: ignore[reportMissingImports]  # noqa: F401
    except ImportError:
        return None
    return [sys.executable, "-m", "ziglang", "cc"]


@cache
def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        import platform

        return platform.platform() + platform.processor()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    )


def library(text: str, *, flags: tuple[str, ...] = ()) -> Path:
    """The program as a shared library, compiled at first use (some seconds; says so on stderr).

    Raises: NativeError where there is no compiler, or it fails.
    """
    command = compiler()
    if command is None:
        raise NativeError(
            "there is no C compiler",
            remedy="install gcc or clang, or `pip install ziglang`, for several times the speed",
        )
    every = (*FLAGS, *flags, *LIBRARY)
    facts = "\0".join((text, *command, _stamp(command), *every, _processor()))
    target = folder("programs") / (hashlib.sha256(facts.encode()).hexdigest()[:32] + ".so")
    if not target.exists():
        print("compiling the model for this processor (once, some seconds) …", file=sys.stderr, flush=True)
        compile_program(text, target, [*command, *every])
    return target


def _stamp(command: list[str]) -> str:
    """Changes when the compiler does; far quicker than asking for its version."""
    facts = Path(command[0]).resolve().stat()
    return f"{facts.st_size} {facts.st_mtime_ns}"


def compile_program(text: str, target: Path, command: list[str]) -> None:
    """Compile into a temporary folder beside ``target``, and move it there when it is whole."""
    with tempfile.TemporaryDirectory(prefix=".build.", dir=target.parent) as scratch:
        (Path(scratch) / "run.c").write_text(text, encoding="utf-8")
        made = Path(scratch) / "run.so"
        try:
            done = subprocess.run(
                [*command, "run.c", "-o", "run.so", "-lm"],
                cwd=scratch,
                capture_output=True,
                text=True,
                timeout=MAX_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NativeError(f"the C compiler did not finish: {error}", where=command[0]) from None
        if done.returncode:
            raise NativeError(
                f"the C compiler failed:\n{done.stderr[-2000:]}", where=command[0], remedy="run with --executor torch"
            )
        made.chmod(0o700)
        os.replace(made, target)
