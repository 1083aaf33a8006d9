"""How numbers, matrices and norms are written in C, and templates with conditions."""

from __future__ import annotations

import string
from collections.abc import Mapping
from importlib import resources

from pellucid.config import NormConfig
from pellucid.native.formats import FORMATS
from pellucid.native.layout import Layout, Stored, is_router


def text_of(name: str) -> str:
    """A file of ``c/``."""
    return (resources.files("pellucid.native") / "c" / name).read_text(encoding="utf-8")


def filled(name: str, values: Mapping[str, object], conditions: Mapping[str, bool]) -> str:
    """A template of ``c/``, with the lines whose conditions hold."""
    return string.Template(keep(text_of(name), conditions)).substitute(values)


def keep(template: str, conditions: Mapping[str, bool]) -> str:
    """The lines whose condition holds; conditions stand between ``//[if name]``, ``//[else]`` and ``//[end]``, and do
    not nest.
    """
    kept, keeping = [], True
    for line in template.splitlines():
        if line.startswith("//[if "):
            keeping = conditions[line.removeprefix("//[if ").removesuffix("]")]
        elif line == "//[else]":
            keeping = not keeping
        elif line == "//[end]":
            keeping = True
        elif keeping:
            kept.append(line)
    return "\n".join(kept)


def real(value: float) -> str:
    """A float constant, exact."""
    return f"{float(value).hex()}f"


def times(scale: float) -> str:
    """In words: what something is multiplied by, where it is."""
    return f" · {scale:g}" if scale != 1 else ""


def scaled(scale: float) -> str:
    """What a Product is multiplied by."""
    return real(scale) if scale != 1 else "1"


def format_of(entry: Stored) -> str:
    """The format's name. Of bf16 products, the gate is the one that suffers most from activations rounded to bf16, and
    a router's choice hangs on small differences: these take them as floats.
    """
    exact = ".gate_proj." in entry.name or is_router(entry.name)
    return "BF16_EXACT" if entry.format == "bfloat16" and exact else FORMATS[entry.format].c_name


def matrix(layout: Layout, name: str) -> str:
    entry = layout.entries[name]
    return f"{{{format_of(entry)}, {entry.rows}, {entry.columns}, {entry.offset}, {entry.stride}}}"


def norm(config: NormConfig | None, weight: str, bias: str) -> str:
    """A Norm; ``weight`` and ``bias`` say where γ and β lie."""
    if config is None:
        return "NONE"
    kind = "RMS_NORM" if config.kind == "rms" else "LAYER_NORM"
    beta = f"numbers(m, {bias})" if config.bias else "NULL"
    return f"{{{kind}, {real(config.eps)}, numbers(m, {weight}), {beta}}}"
