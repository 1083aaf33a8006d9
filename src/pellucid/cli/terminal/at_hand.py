"""What the demo and the page show where the default model cannot be had: the small one that came with Pellucid."""

from __future__ import annotations

from collections.abc import Callable

from pellucid.base.errors import ModelNotFoundError
from pellucid.cli.runs.options import DEFAULT_MODEL

SHIPPED = "tiny"


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
