"""``pellucid run``: a model, and a prompt or none: one answer, or a conversation."""

from __future__ import annotations

from typing import Any

import click

from pellucid.cli.runs import options


@options.command("run")
@click.argument("model", metavar="MODEL")
@click.argument("words", metavar="[PROMPT]", nargs=-1)
@options.running
@options.system
@options.sampling
@options.quiet
def command(
    model: str,
    words: tuple[str, ...],
    system: str | None,
    max_new_tokens: int | None,
    stop: tuple[str, ...],
    quiet: bool,
    **flags: Any,
) -> None:
    """Answer PROMPT with MODEL, or talk with it.

    What is piped in is the prompt, or comes after it; without either it is a conversation. A model that was not made to
    talk goes on with the text. A name that is not on this machine is fetched first, as by `pellucid pull`.
    """
    from pellucid.cli.chat import hold, open_conversation
    from pellucid.cli.terminal.prompts import gathered

    prompt = gathered(None, words, None)
    conversation = open_conversation(model, flags, system=system, max_new_tokens=max_new_tokens, stop=stop, quiet=quiet)
    if prompt is None:
        hold(conversation)
    elif conversation.session.tokenizer.chat_template is not None or system is not None:
        conversation.answer(prompt)
    else:
        conversation.go_on(prompt)
