"""``Conversation``: what was said, and what can be done with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import PellucidError, RequestError, TemplateError

if TYPE_CHECKING:
    from pellucid.cli.runs.session import Session
    from pellucid.grammar.source import Grammar
    from pellucid.sampling import SamplingParams

USUAL_ANSWER = 1024  # tokens, where -n is not given
HELP = """\
/clear, /reset    forget the conversation, but not the system message
/system TEXT      set the system message, and begin anew; alone, show it
/regenerate       answer the last message once more
/undo             take the last message and its answer back
/set NAME VALUE   temperature, top_p, top_k, min_p, repetition_penalty, seed,
                  max_new_tokens; alone, show them; /set quiet, /set verbose
/show             the model, the system message, the chat template
/read FILE        say what a file says
/model NAME       go on with another model; alone, show which this is
/save FILE        write the conversation as JSON
/load FILE        go on with one that was saved
/help             this list
/exit             leave (Ctrl-D does, too)
Ctrl-C stops an answer. A line that ends in \\ goes on in the next; \"\"\" begins
and ends a message of many lines."""


# Settings as Ollama has them, by name.
SET_AS = {
    "temp": "temperature",
    "num_predict": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "repeat_penalty": "repetition_penalty",
}
# Settings and commands of Ollama's and llama.cpp's chats, and where the idea lives here.
SET_ELSEWHERE = {
    "num_ctx": "-c N, when the program is started",
    "num_gpu": "--device, when the program is started",
    "num_thread": "-t N, when the program is started",
    "stop": "--stop TEXT, when the program is started",
    "format": "--json-schema, when the program is started",
    "history": "nothing: the history is kept",
    "nohistory": "XDG_STATE_HOME=/tmp keeps it elsewhere",
    "wordwrap": "nothing: a terminal is wrapped, a pipe is not",
    "nowordwrap": "nothing: a terminal is wrapped, a pipe is not",
    "think": "the chat template decides",
    "nothink": "the chat template decides",
}
ELSEWHERE = {
    "/image": "images are not read here",
    "/audio": "sounds are not read here",
    "/stop": "Ctrl-C stops an answer",
    "/new": "/clear",
    "/history": "/save FILE writes the conversation",
}


class Conversation:
    """The messages so far, and what can be done with them."""

    def __init__(
        self,
        model: str,
        opened: Callable[[str], Session],
        session: Session,
        sampling: SamplingParams,
        template: str | None,
        system: str | None,
        max_new_tokens: int | None,
        stop: Sequence[str],
        quiet: bool,
        structure: Grammar | None = None,
    ) -> None:
        self.model, self.opened = model, opened
        self.session, self.sampling, self.template, self.system = session, sampling, template, system
        self.max_new_tokens, self.stop, self.quiet, self.structure = max_new_tokens, stop, quiet, structure
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
        messages = [*self.messages, {"role": "user", "content": text}]
        said = self._write(self.session.encode_chat(self.with_system(messages), self.template))
        self.messages = [*messages, {"role": "assistant", "content": said}]

    def go_on(self, text: str) -> None:
        """Write what follows a text, as the model continues it."""
        self._write(self.session.encode(text))

    def _write(self, ids: list[int]) -> str:
        """What the model says after these ids, written as it comes. Raises: what went wrong in the engine."""
        from pellucid.cli.terminal.console import figures, notice, writer

        try:
            request = self.session.request(
                ids,
                self.sampling,
                max_new_tokens=self.max_new_tokens,
                usual=USUAL_ANSWER,
                stop=self.stop,
                grammar=self.structure,
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
        if answer is not None and not self.quiet:
            notice(figures(answer, self.session.engine.context_len))
        return "".join(said)

    def obey(self, line: str) -> None:
        """A line for the program itself. Raises: RequestError for one that it does not know."""
        from pellucid.cli.terminal.console import notice

        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if word in ("/help", "/?"):
            notice(HELP)
        elif word in ("/reset", "/clear"):
            self.messages = []
            notice("The conversation is forgotten.")
        elif word in ("/regenerate", "/regen", "/retry"):
            self.regenerate()
        elif word == "/undo":
            self.undo()
        elif word == "/set":
            self.set(rest)
        elif word == "/show":
            self.show(rest)
        elif word == "/read":
            self.read(rest)
        elif word == "/model":
            self.go_on_with(rest)
        elif word == "/load":
            self.load(rest)
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
            raise RequestError(f"there is no command {word}", remedy=ELSEWHERE.get(word, "/help lists those there are"))

    def regenerate(self) -> None:
        """Answer the last message once more. Raises: RequestError where there is none."""
        self.answer(self.undo(quietly=True))

    def undo(self, quietly: bool = False) -> str:
        """Take the last message and its answer back; the message. Raises: RequestError where there is none."""
        from pellucid.cli.terminal.console import notice

        last = max((i for i, message in enumerate(self.messages) if message["role"] == "user"), default=None)
        if last is None:
            raise RequestError("nothing has been said yet")
        text = str(self.messages[last]["content"])
        self.messages = self.messages[:last]
        if not quietly:
            notice(f"Taken back: {text[:70]}")
        return text

    def set(self, rest: str) -> None:
        """How answers are drawn. Raises: RequestError for a name or value that there is not."""
        from pellucid.cli.terminal.console import notice

        rest = rest.removeprefix("parameter").strip()
        first, _, more = rest.partition(" ")
        if first in ("quiet", "verbose"):
            self.quiet = first == "quiet"
            notice("Figures are written after an answer." if not self.quiet else "No figures are written.")
            return
        if first == "system":
            self.obey(f"/system {more}")
            return
        if first in SET_ELSEWHERE:
            raise RequestError(f"there is no setting {first!r}", remedy=SET_ELSEWHERE[first])
        names = [one.name for one in fields(self.sampling) if one.name not in ("do_sample", "logit_bias")]
        if rest:
            name, _, text = rest.partition(" ")
            name = SET_AS.get(name, name)
            if name not in (*names, "max_new_tokens"):
                raise RequestError(f"there is no setting {name!r}", expected=", ".join((*names, "max_new_tokens")))
            try:
                value = float(text) if name not in ("top_k", "seed", "max_new_tokens") else int(text)
            except ValueError:
                raise RequestError(f"{name} is a number", received=repr(text)) from None
            if name == "max_new_tokens":
                self.max_new_tokens = int(value)
            else:
                self.sampling = replace(self.sampling, **{name: value, "do_sample": True})
        notice(
            ", ".join(f"{name} {getattr(self.sampling, name)}" for name in names)
            + f", max_new_tokens {self.max_new_tokens or USUAL_ANSWER}"
        )

    def show(self, what: str) -> None:
        """What answers, and how. Raises: RequestError for what there is not."""
        from pellucid.cli.terminal.console import notice

        tokenizer = self.session.tokenizer
        shown = {
            "info": f"{self.model}, up to {self.session.engine.context_len:,} tokens; more: pellucid inspect",
            "system": "no system message" if self.system is None else f"system: {self.system}",
            "template": str(self.template or tokenizer.chat_template or "no chat template"),
        }
        if what == "parameters":
            self.set("")
        elif what in shown:
            notice(shown[what])
        elif what in ("", "all"):
            for text in shown.values():
                notice(text)
        else:
            raise RequestError(
                f"there is no {what!r} to show",
                expected="info, system, template or parameters",
                remedy="`pellucid inspect -m NAME` shows the rest",
            )

    def read(self, name: str) -> None:
        """Say what a file says. Raises: RequestError where it cannot be read."""
        from pellucid.base.files import read_text

        if not name:
            raise RequestError("no file is named", remedy="/read FILE")
        try:
            text = read_text(name)
        except OSError as error:
            raise RequestError(f"the file cannot be read: {error.strerror}", where=name) from None
        self.answer(text.removeprefix("\ufeff").strip("\n"))

    def go_on_with(self, name: str) -> None:
        """Another model answers from now on. Raises: what opening it raises; then nothing has changed."""
        from pellucid.cli.terminal.console import notice

        if not name:
            notice(self.model)
            return
        before = self.model, self.session
        self.model, self.session = name, self.opened(name)
        try:
            self.check_template()
        except PellucidError:
            self.model, self.session = before
            raise
        notice(f"{name} answers now, up to {self.session.engine.context_len:,} tokens.")

    def load(self, name: str) -> None:
        """Go on with a conversation that was saved. Raises: RequestError where the file holds none."""
        from pathlib import Path

        from pellucid.base.files import read_json
        from pellucid.cli.terminal.console import notice

        if not name:
            raise RequestError("no file is named", remedy="/load FILE")
        path = Path(name).expanduser()
        try:
            stored = read_json(path)
        except OSError as error:
            raise RequestError(f"the conversation cannot be read: {error.strerror}", where=path) from None
        messages = stored.get("messages") if isinstance(stored, dict) else None
        if not isinstance(messages, list) or not all(
            isinstance(one, dict) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)
            for one in messages
        ):
            raise RequestError("there is no conversation in this file", where=path, expected='{"messages": […]}')
        if messages and messages[0]["role"] == "system":
            self.system, messages = messages[0]["content"], messages[1:]
        self.messages = messages
        notice(f"{len(messages)} messages from {path}")

    def save(self, name: str) -> None:
        """Write the conversation as JSON; at a keyboard a file that is there is asked about.

        Raises: RequestError where that is not possible.
        """
        from pathlib import Path

        from pellucid.base.files import write_json
        from pellucid.cli.terminal.console import notice

        if not name:
            raise RequestError("no file is named", remedy="/save FILE")
        path = Path(name).expanduser()
        if (
            path.exists()
            and sys.stdin.isatty()
            and input(f"{path} is there. Write over it? [y/N] ").strip().lower() not in ("y", "yes")
        ):
            notice("Nothing was written.")
            return
        try:
            write_json(path, {"messages": self.with_system(self.messages)})
        except OSError as error:
            raise RequestError(f"the conversation could not be saved: {error.strerror}", where=path) from None
        notice(f"{len(self.messages)} messages in {path}")
