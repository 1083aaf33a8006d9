"""``pellucid pretrain``: from random numbers to a model that writes."""

from __future__ import annotations

from typing import Any

import click

from pellucid.cli.runs import options
from pellucid.cli.runs.run_config import config
from pellucid.cli.runs.training_flags import (
    EXPERTS,
    FRACTION,
    LAYERS,
    NOT_NEGATIVE,
    SIZE,
    refuse_idle_training,
    run_flags,
    training_flags,
    under,
)

_data, _model = under("Data"), under("Model")
data = options.together(
    [
        _data(
            "-d",
            "--data",
            multiple=True,
            metavar="TEXT",
            help="A file, folder or glob, or hf:NAME[:CONFIG][:SPLIT]; can be given again.",
        ),
        _data(
            "--tokenizer",
            default="bpe",
            metavar="NAME",
            help="bpe or char, learned from the texts; or a model or folder.  [default: bpe]",
        ),
        _data(
            "--vocab-size",
            type=SIZE,
            default=4096,
            metavar="N",
            help="Of a tokenizer that is learned.  [default: 4096]",
        ),
        _data(
            "--text-field",
            multiple=True,
            metavar="NAME",
            help="Field of a JSON object; several are joined.  [default: text]",
        ),
        _data("--separator", metavar="LINE", help="A line between the documents of a plain text."),
        _data(
            "--val-fraction", type=FRACTION, default=0.1, metavar="X", help="Held back, of each source.  [default: 0.1]"
        ),
        _data("--mix", metavar="W,W,…", help="Shares of the rows that come from each -d, in their order."),
        _data("--stream", is_flag=True, help="Tokenize while learning; nothing is kept on the disk."),
        _data(
            "--mask-documents/--mix-documents",
            default=True,
            help="Whether a token sees only its own document.  [default: mask]",
        ),
    ]
)
model = options.together(
    [
        _model(
            "--depth", type=LAYERS, default=4, metavar="N", help="Layers; all other sizes follow from it.  [default: 4]"
        ),
        _model("--model-type", metavar="NAME", help="Family, as config.json names it."),
        _model("--d-model", type=SIZE, metavar="N", help="Width.  [default: 64 × depth]"),
        _model("--num-heads", type=SIZE, metavar="N", help="Attention heads.  [default: d_model / 64]"),
        _model("--num-kv-heads", type=SIZE, metavar="N", help="Key-value heads.  [default: as many]"),
        _model("--d-ff", type=SIZE, metavar="N", help="Width of the MLP, or of each expert."),
        _model(
            "--num-experts",
            type=EXPERTS,
            metavar="N",
            help="Of a mixture of experts (--model-type mixtral).  [default: the family's]",
        ),
        _model(
            "--experts-per-token", type=EXPERTS, metavar="N", help="That a token goes through.  [default: the family's]"
        ),
        _model(
            "--balance",
            type=NOT_NEGATIVE,
            metavar="X",
            help="Weight of the loss that evens experts out.  [default: 0.01]",
        ),
        _model("--context-len", type=SIZE, default=256, metavar="N", help="Context in tokens.  [default: 256]"),
        _model("--tie/--untie", default=True, help="Whether embeddings serve as the output head.  [default: tie]"),
    ]
)


@options.command("pretrain")
@data
@model
@training_flags(steps="20 tokens for each parameter, at most 10 epochs", lr="by width")
@run_flags(out="runs/pretrain")
@config
@options.quiet
@click.pass_context
def command(
    ctx: click.Context, config: str | None, quiet: bool, overwrite: bool, preview: bool, out: str, **flags: Any
) -> None:
    """Train a model from random weights on texts.

    pellucid pretrain -d book.txt --depth 4 -o runs/book

    A run that was stopped goes on where it was when the same command is given again. The finished model is in the run's
    folder: pellucid generate -m runs/book
    """
    from pathlib import Path

    from pellucid.cli.runs.pretrain_run import pretrain

    options.refuse_idle(vocab_size=(flags["tokenizer"] == "bpe", "goes with --tokenizer bpe"))
    refuse_idle_training(flags)
    pretrain(Path(out), flags, quiet=quiet, overwrite=overwrite, preview=preview)
