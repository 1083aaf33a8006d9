"""How much memory this process may still take: what the machine has, within the limits of its container."""

from __future__ import annotations

import os
from pathlib import Path

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def available_memory() -> int:
    """Bytes that can be had without swapping: Linux's MemAvailable, within each enclosing cgroup's limit; elsewhere
    half of what is built in.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        facts = {name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":", 1) for line in lines)}
        return max(min([facts["MemAvailable"], *_in_cgroups()]), 0)
    except (OSError, ValueError, KeyError, IndexError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _in_cgroups() -> list[int]:
    """What is left in each group that has a limit (version 2; and version 1's memory group). Files that the kernel
    could drop count as free.
    """
    left = []
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        root = Path("/sys/fs/cgroup") / kinds
        names = ("memory.max", "memory.current") if not kinds else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            try:
                limit, used = ((folder / name).read_text(encoding="ascii").strip() for name in names)
                stat = dict(pair.split() for pair in (folder / "memory.stat").read_text("ascii").splitlines())
                if limit != "max":
                    cached = stat.get("inactive_file", stat.get("total_inactive_file", 0))
                    left.append(int(limit) - int(used) + int(cached))
            except (OSError, ValueError):
                continue
    return left


def bytes_of(text: str) -> int:
    """``"6G"``, ``"512M"``, ``"1.5g"``, ``"100000"`` as bytes. Raises: ValueError."""
    said = text
    text = text.strip().lower().removesuffix("ib").removesuffix("b")
    unit = text[-1:] if text[-1:] in "kmgt" else ""
    try:
        number = float(text.removesuffix(unit)) * _UNITS[unit]
    except ValueError:
        number = 0.0
    if not 0 < number < 2**63:
        raise ValueError(f"no amount of memory: {said!r}")
    return int(number)
