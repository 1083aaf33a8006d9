"""Which line of code computes a step: found in the running source, so that it is right by construction."""

from __future__ import annotations

import importlib
import inspect
from functools import cache, reduce
from importlib.resources import files
from pathlib import Path

from pellucid.config import ModelConfig
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


def line_in_c(tap: Tap, config: ModelConfig) -> str:
    """Where the native program has a tap's value: ``native/c/part_mlp.c.in:29``; for what it never holds as a whole,
    where it is used.
    """
    if tap.operation.stage is not None:
        file, part = tap.operation.stage
        return f"native/c/{file}:{_line_with(file, part)}"
    texts = ["forward.c.in"]
    if tap.layer is not None:
        layer = config.layers[tap.layer]
        mixers = [_template(type(mixer).__name__) for mixer in (layer.mixer, layer.beside) if mixer is not None]
        texts += [*mixers, "part_output.c.in", "part_experts.c.in" if layer.experts else "part_mlp.c.in"]
    found = ((file, _line_with(file, f'"{tap.name}"')) for file in texts)
    file, number = next(((file, number) for file, number in found if number), (texts[-1], 1))
    return f"native/c/{file}:{number}"


def _template(kind: str) -> str:
    """The text of a mixer's steps: ``LatentAttentionConfig`` → ``part_latent.c.in``."""
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in kind.removesuffix("Config"))
    parts = [path.name for path in (files("pellucid.native") / "c").iterdir() if path.name.startswith("part_")]
    return max((part for part in parts if name.startswith(f"_{part[5:-5]}")), key=len, default="forward.c.in")


@cache
def _line_with(file: str, part: str) -> int:
    """Its number; 0 where there is none."""
    lines = (files("pellucid.native") / "c" / file).read_text(encoding="utf-8").splitlines()
    return next((number for number, line in enumerate(lines, 1) if part in line), 0)
