"""What a step frees, the next one uses again: large blocks stay with the process, and do not go back to the kernel."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> None:
    """From now on, for the whole process. Does nothing where the C library is not glibc.

    glibc maps a block of more than 32 MB anew for each allocation and unmaps it when it is freed, and the kernel fills
    its pages with zeros one by one as they are touched: 40 ms for the 77 MB of a gradient that is written in 4 ms, a
    third of a training step with a large vocabulary (dev/LOG.md). A step allocates what the step before it freed, so
    what is kept is what is needed. Source: mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # musl, macOS, Windows
        return
    mallopt(M_MMAP_MAX, 0)  # no block is mapped by itself: all are cut from the heap
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # whose free end is left as it is
