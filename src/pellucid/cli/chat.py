"""``pellucid chat``: a conversation in the terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from pellucid.base.errors import PellucidError
from pellucid.cli.runs import options
from pellucid.cli.runs.conversation import Conversation

if TYPE_CHECKING:
    from pellucid.grammar.source import Grammar

# Small models loop when they always take the likeliest token; used where neither flags nor the model's files say
# otherwise.
DRAW = {"temperature": 0.7, "top_p": 0.95}
CONVERSATIONS = 2  # whose keys and values are in memory: this one, and the one before /reset or /system


@options.command("chat")
@click.argument("words", metavar="[PROMPT]", nargs=-1)
@options.model
@options.running
@options.prompt
@options.system
@options.chat_template
@options.sampling
@options.structure
@options.speculation
@options.quiet
def command(
    words: tuple[str, ...],
    model: str,
    prompt: str | None,
    system: str | None,
    chat_template: str | None,
    max_new_tokens: int | None,
    stop: tuple[str, ...],
    json_schema: str | None,
    grammar: str | None,
    regex: str | None,
    quiet: bool,
    **flags: Any,
) -> None:
    """Talk with a model.

    /help lists what can be said to the program itself. Without sampling flags the model's own generation_config.json
    decides, else --temperature 0.7 --top-p 0.95.
    """
    from functools import partial

    from pellucid.checkpoint.sources.resolve import resolve
    from pellucid.cli.terminal.at_hand import first_model
    from pellucid.cli.terminal.console import notice
    from pellucid.cli.terminal.prompts import read_grammar, read_template, typed_prompt

    first, template = typed_prompt(prompt, words), read_template(chat_template)
    if first is not None and options.names_a_model(first) and not options.is_typed("model"):
        notice(f"{first!r} is taken as what is said; to talk with that model: pellucid chat -m {first}")
    if not options.is_typed("model"):
        model = first_model(partial(resolve, offline=flags["offline"]), model)
    structure = read_grammar(json_schema, grammar, regex)
    conversation = open_conversation(model, flags, template, system, max_new_tokens, stop, quiet, structure)
    hold(conversation, first)


def open_conversation(
    model: str,
    flags: dict[str, Any],
    template: str | None = None,
    system: str | None = None,
    max_new_tokens: int | None = None,
    stop: tuple[str, ...] = (),
    quiet: bool = False,
    structure: Grammar | None = None,
) -> Conversation:
    """A model that is ready to talk."""
    from pellucid.cli.runs.session import open_session
    from pellucid.cli.terminal.console import status

    def opened(name: str) -> Any:
        with status(f"loading {os.path.basename(name)} …"):
            return open_session(name, flags, max_batch=CONVERSATIONS, most_kept=CONVERSATIONS)

    session = opened(model)
    return Conversation(
        model,
        opened,
        session,
        session.sampling(flags, habit=DRAW),
        template,
        system,
        max_new_tokens,
        stop,
        quiet,
        structure,
    )


def hold(conversation: Conversation, first: str | None = None) -> None:
    """Greet, answer what was said on the command line, then read lines and answer them, until the person leaves.

    Raises: TemplateError where the model has no chat template.
    """
    from pellucid.cli.terminal.console import notice
    from pellucid.cli.terminal.lines import Lines

    conversation.check_template()

    if not conversation.quiet:
        about = f"{conversation.model}, up to {conversation.session.engine.context_len:,} tokens."
        notice(f"{about} /help lists commands; Ctrl-D leaves.")
    if first is not None:
        conversation.answer(first)
    with Lines() as lines:
        talk(conversation, lines.read)


def talk(conversation: Conversation, read: Any) -> None:
    """Read messages and answer them, until the person leaves."""
    from pellucid.cli.terminal.console import notice

    while True:
        try:
            line = read()
        except EOFError:
            if sys.stdin.isatty():
                print()
            return
        except KeyboardInterrupt:
            print()
            notice("Ctrl-D or /exit leaves.")
            continue
        try:
            if line.strip() in ("/exit", "/quit", "/bye"):
                return
            if line.startswith("/"):
                conversation.obey(line)
            elif line.strip():
                conversation.answer(line)
        except PellucidError as error:  # the conversation goes on: a path may be wrong, a message too long
            from pellucid.cli.app import complain

            complain(str(error))
