"""``pellucid chat``: a conversation in the terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import PellucidError, RequestError, TemplateError
from pellucid.cli.runs import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pellucid.cli.runs.session import Session
    from pellucid.sampling import SamplingParams

# Small models loop when they always take the likeliest token; used where neither flags nor the model's files say
# otherwise.
DRAW = {"temperature": 0.7, "top_p": 0.95}
USUAL_ANSWER = 1024  # tokens, where -n is not given
CONVERSATIONS = 2  # whose keys and values are in memory: this one, and the one before /reset or /system
HELP = """\
/reset         forget the conversation, but not the system message
/system TEXT   set the system message, and begin anew; alone, show it
/save FILE     write the conversation as JSON
/help          this list
/exit          leave (Ctrl-D does, too)
Ctrl-C stops an answer. A line that ends in \\ goes on in the next."""


@options.command("chat")
@options.model
@options.running
@options.prompt
@options.system
@options.chat_template
@options.sampling
@options.speculation
@options.quiet
def command(
    model: str,
    prompt: str | None,
    system: str | None,
    chat_template: str | None,
    max_new_tokens: int | None,
    stop: tuple[str, ...],
    quiet: bool,
    **flags: Any,
) -> None:
    """Talk with a model.

    /help lists what can be said to the program itself. Without sampling flags the model's own generation_config.json
    decides, else --temperature 0.7 --top-p 0.95.
    """
    from pellucid.cli.runs.session import open_session
    from pellucid.cli.terminal.console import notice, status
    from pellucid.cli.terminal.prompts import read_template

    template = read_template(chat_template)
    with status(f"loading {os.path.basename(model)} …"):
        session = open_session(model, flags, max_batch=CONVERSATIONS)
    conversation = Conversation(
        session, session.sampling(flags, habit=DRAW), template, system, max_new_tokens, stop, quiet
    )
    conversation.check_template()
    if not quiet:
        notice(f"{model}, up to {session.engine.context_len:,} tokens. /help lists commands; Ctrl-D leaves.")
    if prompt is not None:
        conversation.answer(prompt)
    talk(conversation)


def talk(conversation: Conversation) -> None:
    """Read lines and answer them, until the person leaves."""
    from pellucid.cli.terminal.console import notice

    while True:
        try:
            line = _read()
        except EOFError:
            if sys.stdin.isatty():
                print()
            return
        except KeyboardInterrupt:
            print()
            notice("Ctrl-D or /exit leaves.")
            continue
        try:
            if line.strip() in ("/exit", "/quit"):
                return
            if line.startswith("/"):
                conversation.obey(line)
            elif line.strip():
                conversation.answer(line)
        except PellucidError as error:  # the conversation goes on: a path may be wrong, a message too long
            from pellucid.cli.app import complain

            complain(str(error))


def _read() -> str:
    """What the person types, or what is piped in: a line, and those after it while they end in a backslash."""
    first = following = ""
    if sys.stdin.isatty():
        import readline  # gives input() editing and history  # noqa: F401

        # \001 and \002 tell readline that what is between them takes no room.
        first, following = "\001\x1b[1;36m\002> \001\x1b[0m\002" if sys.stdout.isatty() else "> ", ". "
    line = input(first)
    while line.endswith("\\"):
        line = line[:-1] + "\n" + input(following)
    return line


class Conversation:
    """The messages so far, and what can be done with them."""

    def __init__(
        self,
        session: Session,
        sampling: SamplingParams,
        template: str | None,
        system: str | None,
        max_new_tokens: int | None,
        stop: Sequence[str],
        quiet: bool,
    ) -> None:
        self.session, self.sampling, self.template, self.system = session, sampling, template, system
        self.max_new_tokens, self.stop, self.quiet = max_new_tokens, stop, quiet
        self.messages: list[dict[str, Any]] = []

    def with_system(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return messages if self.system is None else [{"role": "system", "content": self.system}, *messages]

    def check_template(self) -> None:
        """Raises: TemplateError where the model has no chat template, before anyone has typed anything."""
        try:
            self.session.encode_chat(self.with_system([{"role": "user", "content": "?"}]), self.template)
        except TemplateError as error:
            raise TemplateError(
                error.what,
                where=error.where,
                remedy="`pellucid generate` continues a text; --chat-template gives a template",
            ) from None

    def answer(self, text: str) -> None:
        """Write the answer to a message as it comes. Ctrl-C stops it; what was said stays in the conversation."""
        from pellucid.cli.terminal.console import figures, notice, writer

        messages = [*self.messages, {"role": "user", "content": text}]
        ids = self.session.encode_chat(self.with_system(messages), self.template)
        try:
            request = self.session.request(
                ids, self.sampling, max_new_tokens=self.max_new_tokens, usual=USUAL_ANSWER, stop=self.stop
            )
        except PellucidError as error:
            raise RequestError(str(error), remedy="/reset begins anew") from None
        write, said, answer = writer(), [], None
        try:
            for event in self.session.engine.stream(request):
                write(event.text)
                said.append(event.text)
                answer = event.answer
        except KeyboardInterrupt:
            write(" …")
        write("\n")
        if answer is not None and answer.error is not None:
            raise answer.error
        self.messages = [*messages, {"role": "assistant", "content": "".join(said)}]
        if answer is not None and not self.quiet:
            notice(figures(answer, self.session.engine.context_len))

    def obey(self, line: str) -> None:
        """A line for the program itself. Raises: RequestError for one that it does not know."""
        from pellucid.cli.terminal.console import notice

        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if word == "/help":
            notice(HELP)
        elif word == "/reset":
            self.messages = []
            notice("The conversation is forgotten.")
        elif word == "/system":
            if rest:
                self.system, self.messages = rest, []
            notice(
                "No system message is set; the chat template may have its own."
                if self.system is None
                else f"system: {self.system}"
            )
        elif word == "/save":
            self.save(rest)
        else:
            raise RequestError(f"there is no command {word}", remedy="/help lists those there are")

    def save(self, name: str) -> None:
        """Write the conversation as JSON. Raises: RequestError where that is not possible."""
        from pathlib import Path

        from pellucid.base.files import write_json
        from pellucid.cli.terminal.console import notice

        if not name:
            raise RequestError("no file is named", remedy="/save FILE")
        path = Path(name).expanduser()
        try:
            write_json(path, {"messages": self.with_system(self.messages)})
        except OSError as error:
            raise RequestError(f"the conversation could not be saved: {error.strerror}", where=path) from None
        notice(f"{len(self.messages)} messages in {path}")
