"""Which model a person begins with: the default one; in a Chinese locale one that reads Chinese; else what ships."""

from __future__ import annotations

import os
from collections.abc import Callable

from pellucid.base.errors import ModelNotFoundError
from pellucid.cli.runs.options import DEFAULT_MODEL

SHIPPED = "tiny"
BILINGUAL = "qwen2.5:0.5b"


def reads_chinese() -> bool:
    """Whether the locale is a Chinese one, by the variables that say so, in their order."""
    said = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return next((value for value in said if value), "").lower().startswith("zh")


def first_model(fetch: Callable[[str], object], fallback: str = DEFAULT_MODEL) -> str:
    """The model to begin with where none is named: in a Chinese locale one of both languages, from the hub (mirrors by
    HF_ENDPOINT); where ``fetch`` cannot get it, ``fallback``, and it is said what that cannot do.
    """
    if not reads_chinese():
        return fallback
    from pellucid.checkpoint.sources.catalogue import find_entry
    from pellucid.cli.terminal.console import notice
    from pellucid.cli.terminal.numbers import size

    entry = find_entry(BILINGUAL)
    assert entry is not None
    if not entry.is_cached():
        notice(
            f"取来 {entry.about}（{size(entry.size)}，会中文）；用镜像：设 HF_ENDPOINT；-m {fallback} 用小的英文模型。"
        )
    try:
        fetch(BILINGUAL)
    except ModelNotFoundError as error:
        notice(
            f"{BILINGUAL} 取不到：{error.what}\n"
            f"改用 {fallback}：它只会英文，不会读写中文。设 HF_ENDPOINT 指向镜像可再试，或用 -m 指定硬盘上的模型。"
        )
        return fallback
    return BILINGUAL


def at_hand(model: str, fetch: Callable[[str], object]) -> str:
    """``model``; or, where that is the default and ``fetch`` cannot get it, the one that ships. Says so on stderr.

    Raises: ModelNotFoundError for any other model.
    """
    from pellucid.cli.terminal.console import notice

    try:
        fetch(model)
    except ModelNotFoundError as error:
        if model != DEFAULT_MODEL:
            raise
        notice(f"{model} cannot be had here: {error.what}. Going on with {SHIPPED}, which came with Pellucid.")
        return SHIPPED
    return model
