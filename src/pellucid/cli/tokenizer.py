"""``pellucid tokenizer``: making tokenizers."""

from __future__ import annotations

import click

from pellucid.cli.runs import options


@click.group("tokenizer", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
def command() -> None:
    """Make a tokenizer: see tokenizer train."""


@options.command("train")
@options.option(
    "-d",
    "--data",
    multiple=True,
    required=True,
    metavar="TEXT",
    help="A file, folder or glob; can be given again.",
    heading="Data",
)
@options.option(
    "--text-field", multiple=True, metavar="NAME", help="Field of a JSON object.  [default: text]", heading="Data"
)
@options.option("--separator", metavar="LINE", help="A line between the documents of a plain text.", heading="Data")
@options.option(
    "--kind",
    type=click.Choice(["bpe", "char"]),
    default="bpe",
    metavar="NAME",
    help="bpe (of bytes) or char.  [default: bpe]",
)
@options.option(
    "--vocab-size", type=click.IntRange(min=257), default=4096, metavar="N", help="Of bpe.  [default: 4096]"
)
@options.option(
    "-o", "--out", type=click.Path(file_okay=False), required=True, metavar="FOLDER", help="Where the tokenizer goes."
)
@options.quiet
def train(
    data: tuple[str, ...],
    text_field: tuple[str, ...],
    separator: str | None,
    kind: str,
    vocab_size: int,
    out: str,
    quiet: bool,
) -> None:
    """Learn a tokenizer from texts.

    pellucid tokenizer train -d book.txt --vocab-size 4096 -o tokenizer
    """
    from pathlib import Path

    from pellucid.cli.terminal.console import notice, status
    from pellucid.train.data.sources import find_sources
    from pellucid.train.data.tokenizer import save_tokenizer, train_bpe, train_characters

    sources, fields = find_sources(data), text_field or ("text",)
    with status("" if quiet else f"learning from {len(sources)} texts …"):
        made = (
            train_characters(sources, fields, separator)
            if kind == "char"
            else train_bpe(sources, vocab_size, fields, separator)
        )
        save_tokenizer(made, Path(out))
    if not quiet:
        notice(f"{made.get_vocab_size():,} tokens in {out}; try: pellucid tokenize -m {out} 'some text'")


command.add_command(train)
