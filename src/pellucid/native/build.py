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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from pellucid.base.files import atomic_write, file_sha256, sync_folder
from pellucid.native.cache import NativeError, folder, sweep

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
KEPT_BYTES, KEPT_SECONDS = 2**30, 180 * 24 * 3600  # of programs, and of one that nobody compiled or asked for


def compiler() -> list[str] | None:
    """``$CC``, cc, clang or gcc; else the ``ziglang`` package's; else None."""
    for name in (os.environ.get("CC"), "cc", "clang", "gcc"):
        if name and (path := shutil.which(name)):
            return [path]
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
    if not is_sound(target):
        with _locked(target):
            if not is_sound(target):  # another process may have made it meanwhile
                print("compiling the model for this processor (once, some seconds) …", file=sys.stderr, flush=True)
                compile_program(text, target, [*command, *every])
                sweep(target.parent, kept_bytes=KEPT_BYTES, kept_seconds=KEPT_SECONDS, but={target, sum_of(target)})
    return target


def is_sound(target: Path) -> bool:
    """Whether the program is there and is, byte by byte, what the compiler made: it is about to be run."""
    try:
        return sum_of(target).read_text(encoding="ascii") == file_sha256(target)
    except (OSError, UnicodeDecodeError):
        return False


def sum_of(target: Path) -> Path:
    return target.with_suffix(".sha256")


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """One process at a time makes it; where files cannot be locked, each makes its own, and the last one stays."""
    with open(target.with_name(f".{target.name}.lock"), "wb") as file:
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
        with open(made, "rb") as file:
            os.fsync(file.fileno())
        digest = file_sha256(made)
        os.replace(made, target)
        sync_folder(target.parent)
    with atomic_write(sum_of(target), "w") as file:
        file.write(digest)
    sum_of(target).chmod(0o600)
