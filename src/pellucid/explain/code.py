"""Which line of code computes a step: found in the running source, so that it is right by construction."""

from __future__ import annotations

import importlib
import inspect
from functools import cache, reduce
from importlib.resources import files
from pathlib import Path

from pellucid.operations import Tap
from pellucid.operations.operation import Line


def line_in_torch(tap: Tap) -> str:
    """``pellucid/model/attend.py:58``."""
    return locate(tap.operation.line(tap.name))


@cache
def locate(line: Line) -> str:
    """File and line of the first line below the function's signature that contains ``part``."""
    function = reduce(getattr, line.function.split("."), importlib.import_module(f"pellucid.{line.module}"))
    lines, first = inspect.getsourcelines(function)
    number = next(first + i for i, text in enumerate(lines) if i > 0 and line.part in text and '"""' not in text)
    file = Path(inspect.getsourcefile(function) or "")
    return f"{'/'.join(file.parts[-3:])}:{number}"


def line_in_c(tap: Tap) -> str:
    """Where the native program has a tap's value: ``native/c/forward.c.in:59``; for what it never holds as a whole,
    where it is used.
    """
    file, part = tap.operation.stage or ("forward.c.in", f'"{tap.name}"')
    return f"native/c/{file}:{_line_with(file, part)}"


@cache
def _line_with(file: str, part: str) -> int:
    lines = (files("pellucid.native") / "c" / file).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if part in line)
