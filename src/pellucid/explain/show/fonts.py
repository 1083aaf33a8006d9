"""Fonts for token rulers: a chain that draws 中文 too, from what the machine has."""

from __future__ import annotations

import warnings
from functools import cache

# Linux, macOS, Windows. A .ttc file may be known by its first face alone (often JP), which holds the same characters.
CJK = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "Noto Serif CJK SC",
    "Noto Serif CJK JP",
    "Arial Unicode MS",
)
MARKS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍", "": "∅"}


def readable(token: str) -> str:
    """A token with its spaces and line ends made visible."""
    return "".join(MARKS.get(char, char) for char in token) or MARKS[""]


def families(text: str) -> list[str]:
    """Font families for ``text``; the first that has a character draws it. Warns where nothing here draws 中文."""
    fonts = installed()
    if not fonts and any(
        0x2E80 <= ord(char) <= 0x9FFF or 0xAC00 <= ord(char) <= 0xD7AF or 0xF900 <= ord(char) <= 0xFAFF for char in text
    ):
        _warn()
    return ["DejaVu Sans", *fonts]


@cache
def installed() -> tuple[str, ...]:
    """Those of the chain that this machine has."""
    from matplotlib import font_manager

    present = {font.name for font in font_manager.fontManager.ttflist}
    return tuple(name for name in CJK if name in present)


@cache
def _warn() -> None:
    warnings.warn(
        "no installed font draws Chinese, Japanese or Korean, so those tokens show as boxes; "
        "install one (Debian: apt install fonts-noto-cjk) and delete matplotlib's font cache (~/.cache/matplotlib)",
        stacklevel=4,
    )
