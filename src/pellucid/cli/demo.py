"""What `make demo` shows once everything is installed: a model is fetched, and answers.

It is made of the commands that a person would type next, and says which; PROMPT and MODEL come from the environment.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

from pellucid.base.errors import ModelNotFoundError, PellucidError, TemplateError
from pellucid.cli.runs.options import DEFAULT_MODEL

PROMPT = "Why is the sky blue?"
CHINESE_PROMPT = "天空为什么是蓝色的？"
SHIPPED_PROMPT = "KING HENRY:\n"  # what the model that came with Pellucid can go on with; it was never taught to answer
NEW_TOKENS = 200


def demo(model: str, prompt: str | None = None) -> None:
    """Fetch, load, answer, and say where to go next. Raises: PellucidError."""
    from pellucid.cli.generate import write_one
    from pellucid.cli.pull import pull
    from pellucid.cli.runs.session import open_session
    from pellucid.cli.terminal.at_hand import BILINGUAL, SHIPPED, at_hand
    from pellucid.cli.terminal.console import notice, status

    if not os.path.exists(model):
        _echo("pull", model)
        model = at_hand(model, pull)
    named = [] if model == DEFAULT_MODEL else ["-m", model]
    prompt = prompt or {SHIPPED: SHIPPED_PROMPT, BILINGUAL: CHINESE_PROMPT}.get(model, PROMPT)
    with status(f"loading {os.path.basename(model)} …"):
        session = open_session(model)
    try:
        ids, how = session.encode_chat([{"role": "user", "content": prompt}], None), ["--chat"]
        first: tuple[str, Sequence[str]] = ("talk with it", ("chat", *named))
    except TemplateError:  # a model that was never taught to chat continues the text
        ids, how = session.encode(prompt), []
        first = ("write with it", ("generate", *named, "-p", "Once upon a time"))
    _echo("generate", *named, *how, "-p", prompt)
    print()
    write_one(
        session,
        session.request(ids, session.sampling({}), max_new_tokens=None, usual=NEW_TOKENS),
        quiet=False,
    )
    print()
    notice("Where to go next:")
    for what, words in (
        first,
        ("in a browser", ("serve", *named)),
        ("see its tokens", ("tokenize", *named, "Hello, world")),
        ("see its parts", ("inspect", *named)),
        ("see it think", ("explain", *named, "The sky is")),
        ("other models", ("list",)),
        ("everything else", ("--help",)),
    ):
        print(f"  {what:<16} {_line(words)}", file=sys.stderr)


def _line(words: Sequence[str]) -> str:
    """A command as it can be typed in the folder of the Makefile."""
    return shlex.join([".venv/bin/pellucid", *words])


def _echo(*words: str) -> None:
    from pellucid.cli.terminal.console import notice

    notice(f"$ {_line(words)}")


def main() -> int:
    """The demo, with exit statuses as the program's."""
    from pellucid.cli.app import BAD_INPUT, INTERRUPTED, complain
    from pellucid.cli.pull import pull
    from pellucid.cli.terminal.at_hand import first_model

    try:
        model = os.environ.get("MODEL") or first_model(pull)
        demo(model, os.environ.get("PROMPT"))
    except ModelNotFoundError as error:
        complain(str(error))
        print(
            "Not fetched: the model. With one on disk: make demo MODEL=path (a folder, or a .gguf file)",
            file=sys.stderr,
        )
        return BAD_INPUT
    except PellucidError as error:
        complain(str(error))
        return BAD_INPUT
    except KeyboardInterrupt:
        print()
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
