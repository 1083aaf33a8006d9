"""``pellucid pretrain``: from random numbers to a model that writes."""

from __future__ import annotations

from typing import Any

import click

from pellucid.cli import options
from pellucid.cli.options import option
from pellucid.cli.run_config import config

COUNT, AT_LEAST_0 = click.IntRange(min=1), click.IntRange(min=0)
FRACTION = click.FloatRange(0, 1, max_open=True)


def _group(heading: str) -> Any:
    def its(*flags: str, **settings: Any) -> Any:
        return option(*flags, heading=heading, **settings)

    return its


_data, _model, _training, _run = _group("Data"), _group("Model"), _group("Training"), _group("Run")
data = options.together(
    [
        _data("-d", "--data", multiple=True, metavar="TEXT", help="A file, folder or glob; can be given again."),
        _data("--tokenizer", default="bpe", metavar="NAME", help="bpe or char, learned from the texts; or a model or folder.  [default: bpe]"),
        _data("--vocab-size", type=COUNT, default=4096, metavar="N", help="Of a tokenizer that is learned.  [default: 4096]"),
        _data("--text-field", multiple=True, metavar="NAME", help="Field of a JSON object; several are joined.  [default: text]"),
        _data("--separator", metavar="LINE", help="A line between the documents of a plain text."),
        _data("--val-fraction", type=FRACTION, default=0.1, metavar="X", help="Held back, of each source.  [default: 0.1]"),
        _data("--mask-documents/--mix-documents", default=True, help="Whether a token sees only its own document.  [default: mask]"),
    ]
)
model = options.together(
    [
        _model("--depth", type=COUNT, default=4, metavar="N", help="Layers; all other sizes follow from it.  [default: 4]"),
        _model("--model-type", metavar="NAME", help="Family, as config.json names it."),
        _model("--d-model", type=COUNT, metavar="N", help="Width.  [default: 64 × depth]"),
        _model("--num-heads", type=COUNT, metavar="N", help="Attention heads.  [default: d_model / 64]"),
        _model("--num-kv-heads", type=COUNT, metavar="N", help="Key-value heads.  [default: as many]"),
        _model("--d-ff", type=COUNT, metavar="N", help="Width of the MLP."),
        _model("--context-len", type=COUNT, default=256, metavar="N", help="Context in tokens.  [default: 256]"),
        _model("--tie/--untie", default=True, help="Whether embeddings serve as the output head.  [default: tie]"),
    ]
)
training = options.together(
    [
        _training("--steps", type=COUNT, metavar="N", help="[default: 20 tokens for each parameter, at most 10 epochs]"),
        _training("--batch-size", type=COUNT, default=32, metavar="N", help="Rows of a step, over all processes.  [default: 32]"),
        _training("--micro-batch-size", type=COUNT, metavar="N", help="Rows of one forward pass."),
        _training("--optimizer", type=click.Choice(["adamw", "muon"]), default="adamw", metavar="NAME", help="adamw or muon.  [default: adamw]"),
        _training("--lr", type=click.FloatRange(min=0, min_open=True), metavar="X", help="Peak learning rate; default: by width."),
        _training("--schedule", type=click.Choice(["cosine", "wsd", "constant"]), default="cosine", metavar="NAME", help="cosine, wsd or constant."),
        _training("--warmup-steps", type=AT_LEAST_0, metavar="N", help="[default: 2 % of the steps, at most 1000]"),
        _training("--final-fraction", type=click.FloatRange(0, 1), default=0.1, metavar="X", help="Of the peak rate, at the end.  [default: 0.1]"),
        _training("--weight-decay", type=click.FloatRange(min=0), default=0.1, metavar="X", help="On matrices alone.  [default: 0.1]"),
        _training("--beta1", type=FRACTION, default=0.9, metavar="X", help="AdamW's.  [default: 0.9]"),
        _training("--beta2", type=FRACTION, default=0.95, metavar="X", help="AdamW's.  [default: 0.95]"),
        _training("--max-grad-norm", type=click.FloatRange(min=0), default=1.0, metavar="X", help="Clip beyond it; 0: never.  [default: 1]"),
        _training("--z-loss", type=click.FloatRange(min=0), default=0.0, metavar="X", help="Weight of the z-loss.  [default: 0]"),
        _training("--dropout", type=FRACTION, default=0.0, metavar="P", help="On what enters the residual stream.  [default: 0]"),
        _training("--bf16", is_flag=True, help="Matrix products in bfloat16; weights stay float32."),
        _training("--compile", "compiled", is_flag=True, help="Let torch compile the model (slow to start)."),
        _training("--checkpoint-activations", is_flag=True, help="Less memory, a third more time."),
        _training("--deterministic", is_flag=True, help="On a GPU: the same numbers every time, slower."),
        _training("--seed", type=AT_LEAST_0, default=0, metavar="N", help="Of weights, data order and dropout.  [default: 0]"),
        _training("--on-trouble", type=click.Choice(["stop", "skip"]), default="stop", metavar="NAME", help="stop or skip, at NaN or a loss spike."),
        _training("--max-minutes", type=click.FloatRange(min=0), default=0.0, metavar="X", help="Save and stop after so long."),
    ]
)
run = options.together(
    [
        _run("-o", "--out", type=click.Path(file_okay=False), default="runs/pretrain", metavar="FOLDER", help="[default: runs/pretrain]"),
        _run("--eval-every", type=AT_LEAST_0, default=250, metavar="N", help="Steps between validations.  [default: 250]"),
        _run("--eval-rows", type=COUNT, default=64, metavar="N", help="Rows of a validation.  [default: 64]"),
        _run("--save-every", type=AT_LEAST_0, default=500, metavar="N", help="Steps between checkpoints.  [default: 500]"),
        _run("--keep", type=AT_LEAST_0, default=2, metavar="N", help="Checkpoints that stay; 0: all.  [default: 2]"),
        _run("--sample-every", type=AT_LEAST_0, default=500, metavar="N", help="Steps between samples of text.  [default: 500]"),
        _run("-p", "--prompt", default="", metavar="TEXT", help="How the samples begin."),
        _run("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or mps."),
        _run("-t", "--threads", type=COUNT, metavar="N", help="CPU threads."),
        _run("--overwrite", is_flag=True, help="Begin anew where the folder holds a run."),
    ]
)


@options.command("pretrain")
@data
@model
@training
@run
@config
@options.quiet
@click.pass_context
def command(ctx: click.Context, config: str | None, quiet: bool, overwrite: bool, out: str, **flags: Any) -> None:
    """Train a model from random weights on texts.

    pellucid pretrain -d book.txt --depth 4 -o runs/book

    A run that was stopped goes on where it was when the same command is given again. The finished model is in the run's
    folder: pellucid generate -m runs/book
    """
    from pathlib import Path

    from pellucid.cli.pretrain_run import pretrain

    pretrain(Path(out), flags, quiet=quiet, overwrite=overwrite)
