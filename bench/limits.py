"""The machine's limits: memory read a second, and arithmetic in float32, bfloat16 and int8; ``limits.c``, compiled
here.
"""

from __future__ import annotations

import ctypes
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

READ = 2**29  # bytes read at a time: more than any cache holds
NAMES = ("read", "float32", "bfloat16", "int8")


@cache
def _library() -> ctypes.CDLL:
    made = Path(mkdtemp(prefix="pellucid-limits.")) / "limits.so"
    source = Path(__file__).with_name("limits.c")
    subprocess.run(
        ["cc", "-O3", "-march=native", "-Wno-psabi", "-pthread", "-shared", "-fPIC", str(source), "-o", str(made)],
        check=True,
    )
    return ctypes.CDLL(str(made))


def limits(threads: int) -> dict[str, float]:
    """GB/s read, and GFLOP/s (an addition and a multiplication are two) by arithmetic; 0 where there is no instruction
    for it.
    """
    found = (ctypes.c_double * len(NAMES))()
    if _library().limits(threads, ctypes.c_size_t(READ), found):
        raise MemoryError("the machine's limits cannot be measured")
    return {name: value / 1e9 for name, value in zip(NAMES, found, strict=True)}


if __name__ == "__main__":
    import sys

    print(limits(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
