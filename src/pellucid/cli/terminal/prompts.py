"""Where prompts come from: the command line, a file, or what is piped in."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import RequestError
from pellucid.base.files import parse_json, read_text

if TYPE_CHECKING:
    from pellucid.grammar.source import Grammar


def read_stdin() -> str:
    """All that is piped in, without the last line break. Raises: RequestError where a person sits at the keyboard
    instead.
    """
    if sys.stdin.isatty():
        raise RequestError("there is no text", remedy="give it as an argument, with -p, or pipe it in")
    return _decode(sys.stdin.buffer.read()).removesuffix("\n")


def piped() -> str | None:
    """What is piped in, without the last line break; None at a keyboard, or where nothing is."""
    if sys.stdin is None or sys.stdin.isatty():
        return None
    return _decode(sys.stdin.buffer.read()).removesuffix("\n") or None


def typed_prompt(typed: str | None, words: Sequence[str]) -> str | None:
    """The prompt on the command line, by either way. Raises: RequestError where it is given twice."""
    if words and typed is not None:
        raise RequestError("the prompt is given twice", received=f"{' '.join(words)!r} and -p")
    return " ".join(words) if words else typed


def gathered(typed: str | None, words: Sequence[str], file: str | None) -> str | None:
    """The one prompt: typed with -p or as words, from a file, or piped in. What is piped in, or in the file, comes
    after what is typed, on a line of its own; ``-`` is what is piped in.

    Raises: RequestError where a prompt is given twice.
    """
    typed = typed_prompt(typed, words)
    read = None if file is None else _read_file(file).removesuffix("\n")
    if typed == "-":
        typed, read = None, read_stdin() if read is None else read
    elif read is None:
        read = piped()
    parts = [part for part in (typed, read) if part is not None]
    return "\n".join(parts) if parts else None


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"the input is not UTF-8 at byte {error.start}",
            where="standard input",
            remedy="convert it, e.g. with iconv",
        ) from None


def read_prompts(source: str) -> list[str | list[dict[str, Any]]]:
    """The prompts of a file, or of standard input for ``-``: one a line; empty lines do not count.

    Where the first line is a JSON object, each line is one: ``{"prompt": "…"}``, or ``{"messages": [{"role": …,
    "content": …}]}``.

    Raises: RequestError naming the line that is neither, and where there is none at all.
    """
    where = "standard input" if source == "-" else source
    text = _decode(sys.stdin.buffer.read()) if source == "-" else _read_file(source)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise RequestError("there is no prompt", where=where, expected="one a line")
    if not lines[0][1].lstrip().startswith("{"):
        return [line.removesuffix("\r") for _, line in lines]
    return [_from_json(line, f"{where}, line {number}") for number, line in lines]


def read_grammar(json_schema: str | None, grammar: str | None, regex: str | None) -> Grammar | None:
    """What answers must be, from the flags; None for none of them. A schema is a file, or itself where it begins with
    ``{``.

    Raises: RequestError for two of them, a file that cannot be read, and what no answer can be held to.
    """
    if json_schema is None and grammar is None and regex is None:
        return None
    from pellucid.grammar.answers import asked_grammar

    if json_schema is not None and not json_schema.lstrip().startswith("{"):
        json_schema = _read_file(json_schema, "schema")
    return asked_grammar(json_schema, regex, None if grammar is None else _read_file(grammar, "grammar"))


def _read_file(source: str, what: str = "prompts") -> str:
    try:
        return read_text(source).removeprefix("\ufeff")
    except OSError as error:
        raise RequestError(f"the {what} cannot be read: {error.strerror}", where=source) from None


def _from_json(line: str, where: str) -> str | list[dict[str, Any]]:
    value = parse_json(line, where)
    if isinstance(value, dict):
        if isinstance(value.get("prompt"), str):
            return value["prompt"]
        if isinstance(value.get("messages"), list):
            return value["messages"]
    raise RequestError("no prompt in this line", where=where, expected='{"prompt": "…"} or {"messages": […]}')


def chat_messages(prompt: str | list[dict[str, Any]], system: str | None) -> list[dict[str, Any]]:
    """A conversation whose last message is the prompt; one that is a conversation already stays so."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def read_template(path: str | None) -> str | None:
    """The chat template in a file; None for None. Raises: RequestError where it cannot be read."""
    try:
        return None if path is None else _read_file(path, "chat template")
    except RequestError as error:
        raise RequestError(
            error.what, where=path, remedy="templates are files here; without this, the model's own is used"
        ) from None
