"""Numbers as a person reads them."""

from __future__ import annotations

from collections.abc import Iterable


def size(num_bytes: float) -> str:
    """Bytes in powers of 1000: ``93.9 MB``."""
    return _scaled(num_bytes, ("bytes", "kB", "MB", "GB", "TB"))


def count(number: float) -> str:
    """A count in powers of 1000: ``134.5 M``."""
    return _scaled(number, ("", "K", "M", "B", "T"))


def _scaled(value: float, units: tuple[str, ...]) -> str:
    for unit in units:
        if value < 999.5 or unit == units[-1]:
            break
        value /= 1000
    return f"{value:.3g} {unit}".rstrip() if value < 100 else f"{value:.0f} {unit}".rstrip()


def duration(seconds: float) -> str:
    """``0.21 s``, ``14 s``, ``3 min 20 s``."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def ranges(numbers: Iterable[int]) -> str:
    """Ascending whole numbers, runs shortened: ``0–3, 7, 9–11``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)
