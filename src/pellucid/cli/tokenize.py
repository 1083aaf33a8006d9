"""``pellucid tokenize``: how a model cuts a text into tokens."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from pellucid.cli.runs import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table
    from rich.text import Text

    from pellucid.text.pieces import Piece
    from pellucid.text.tokenizer import Tokenizer

BACKGROUNDS = ("on color(24)", "on color(22)", "on color(94)", "on color(53)")  # white text reads well on all four


@options.command("tokenize")
@click.argument("text", metavar="[TEXT]", required=False)
@options.model
@options.offline
@options.prompt
@options.option("--chat", is_flag=True, help="The text as a user's message, in the chat template.", heading="Prompt")
@options.system
@options.chat_template
@options.option(
    "--special/--no-special", default=True, help="Add the tokens that a model expects around a text.", heading="Prompt"
)
@options.option("--ids", "ids_only", is_flag=True, help="Only the ids, on one line.")
@options.as_json
def command(
    text: str | None,
    model: str,
    prompt: str | None,
    chat: bool,
    system: str | None,
    chat_template: str | None,
    special: bool,
    ids_only: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Show how a model cuts TEXT into tokens.

    Each with its id and the bytes that it stands for, and the text in colours. Without TEXT, or -p, what is piped in is
    read.
    """
    from pellucid.auto import AutoTokenizer
    from pellucid.cli.terminal.console import results
    from pellucid.cli.terminal.prompts import chat_messages, read_stdin, read_template

    in_template = chat or system is not None or chat_template is not None
    options.refuse_idle(
        prompt=(text is None, "stands for TEXT, which is there"),
        special=(not in_template, "is of a plain text: a template writes every special token itself"),
        ids_only=(not as_json, "and --json exclude each other"),
    )
    text = text if text is not None else prompt if prompt is not None else read_stdin()
    tokenizer = AutoTokenizer.from_pretrained(model, offline=offline)
    if ids_only and not in_template:  # of a whole corpus, too: no piece of it is shown
        print(*tokenizer.encode_batch([text], add_special_tokens=special)[0].tolist())
        return
    if in_template:
        pieces = _chat_pieces(tokenizer, chat_messages(text, system), read_template(chat_template))
    else:
        pieces = tokenizer.pieces(text, add_special_tokens=special)

    if as_json:
        lines = ",\n".join(json.dumps(_as_dict(piece), ensure_ascii=False) for piece in pieces)
        print(f"[\n{lines}\n]")
    elif ids_only:
        print(*(piece.id for piece in pieces))
    else:
        console = results()
        if console.color_system:  # without colours the line would be the text as it was given
            console.print(_coloured(pieces), soft_wrap=True)
            console.print()
        console.print(_table(pieces))
        print(f"{len(pieces)} tokens; the text: {len(text)} characters, {len(text.encode())} bytes", file=sys.stderr)


def _chat_pieces(tokenizer: Tokenizer, messages: list[dict[str, str]], template: str | None) -> Sequence[Piece]:
    """The pieces of a rendered conversation. A format written in ids, not in text, has no byte ranges."""
    from pellucid.text.pieces import Piece

    ids = tokenizer.apply_chat_template(messages, chat_template=template, add_generation_prompt=True, return_dict=False)
    rendered = tokenizer.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=True, tokenize=False
    )
    pieces = tokenizer.pieces(rendered)
    if [piece.id for piece in pieces] == ids:
        return pieces
    return [
        Piece(token_id, tokenizer.convert_ids_to_tokens(token_id), tokenizer.decode([token_id]), (0, 0), (0, 0))
        for token_id in ids
    ]


def _as_dict(piece: Piece) -> dict[str, object]:
    return {
        "id": piece.id,
        "token": piece.token,
        "text": piece.text,
        "byte_range": piece.byte_range,
        "char_range": piece.char_range,
    }


def _coloured(pieces: Sequence[Piece]) -> Text:
    """The text, each token on a ground of its own; a token that holds part of a character shows its bytes' place."""
    from rich.text import Text

    from pellucid.cli.terminal.console import visible

    line, shown = Text(), 0  # shown: characters of the text that are on the line already
    for number, piece in enumerate(pieces):
        style = f"color(231) {BACKGROUNDS[number % len(BACKGROUNDS)]}"
        start, end = piece.char_range
        if piece.byte_range[0] == piece.byte_range[1]:
            line.append(visible(piece.token), "reverse dim")
        elif end > shown:
            line.append(visible(piece.text[max(shown - start, 0) :]).replace("\\n", "⏎\n"), style)
            shown = end
        else:
            line.append("·", style)
    return line


def _table(pieces: Sequence[Piece]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from pellucid.cli.terminal.console import visible

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("", "id", "bytes"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("token", overflow="fold")
    table.add_column("text", overflow="fold")
    for number, piece in enumerate(pieces):
        start, end = piece.byte_range
        ground = f"color(231) {BACKGROUNDS[number % len(BACKGROUNDS)]}"
        table.add_row(
            str(number),
            str(piece.id),
            f"{start}–{end}" if end > start else "",
            Text(visible(piece.token), ground),
            Text(repr(piece.text)) if end > start else "",
        )
    return table
