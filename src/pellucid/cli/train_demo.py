"""What `make train-demo` shows: a model learns a text from random numbers, and then writes some. DATA names another
text.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pellucid.base.errors import PellucidError, RequestError

RECIPE = Path("recipes/shakespeare.yaml")
USUAL_TEXT = Path("../shared/data/text_shakespeare/input.txt")
OUT = "runs/shakespeare"


def train_demo(data: str | None) -> None:
    """Train by the recipe, then write. Raises: PellucidError."""
    from pellucid.cli.app import app
    from pellucid.cli.terminal.console import notice

    if data is None and not USUAL_TEXT.is_file():
        raise RequestError(
            "there is no text to learn from",
            where=USUAL_TEXT,
            remedy="make train-demo DATA=FILE with any plain text of about 1 MB; tiny Shakespeare is "
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        )
    # A text of one's own is validated and prompted as it is; its run has a folder of its own.
    own = [] if data is None else ["-o", f"runs/{Path(data).stem or 'text'}", "--prompt", "", "--eval-rows", "200"]
    folder = OUT if data is None else own[1]
    train = ["pretrain", "--config", str(RECIPE), "-d", data or str(USUAL_TEXT), *own]
    write = [
        "generate",
        "-m",
        folder,
        "--temperature",
        "0.8",
        "--seed",
        "1",
        *(["-p", "ROMEO:"] if data is None else []),
    ]
    for words in (train, write):
        notice(f"$ .venv/bin/pellucid {' '.join(words)}")
        app(words, prog_name="pellucid", standalone_mode=False)


def main() -> int:
    """The demo, with exit statuses as the program's."""
    import click

    from pellucid.cli.app import BAD_INPUT, INTERRUPTED, complain

    try:
        train_demo(os.environ.get("DATA") or None)
    except PellucidError as error:
        complain(str(error))
        return BAD_INPUT
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
