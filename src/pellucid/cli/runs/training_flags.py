"""Flags that every command that trains shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from pellucid.cli.runs import options
from pellucid.cli.runs.options import Decorator, option

COUNT, AT_LEAST_0 = click.IntRange(min=1), click.IntRange(min=0)
FRACTION = click.FloatRange(0, 1, max_open=True)


def under(heading: str) -> Callable[..., Decorator[Any]]:
    """A maker of options that help lists under a heading."""

    def its(*flags: str, **settings: Any) -> Decorator[Any]:
        return option(*flags, heading=heading, **settings)

    return its


def training_flags(*, steps: str, lr: str, batch_size: int = 32, weight_decay: float = 0.1) -> Decorator[Any]:
    """How it learns. ``steps`` and ``lr`` say in the help what they are where they are not given."""
    its = under("Training")
    return options.together(
        [
            its("--steps", type=COUNT, metavar="N", help=f"[default: {steps}]"),
            its(
                "--batch-size",
                type=COUNT,
                default=batch_size,
                metavar="N",
                help=f"Rows of a step, over all processes.  [default: {batch_size}]",
            ),
            its("--micro-batch-size", type=COUNT, metavar="N", help="Rows of one forward pass."),
            its(
                "--optimizer",
                type=click.Choice(["adamw", "muon"]),
                default="adamw",
                metavar="NAME",
                help="adamw or muon.  [default: adamw]",
            ),
            its(
                "--lr",
                type=click.FloatRange(min=0, min_open=True),
                metavar="X",
                help=f"Peak learning rate.  [default: {lr}]",
            ),
            its(
                "--schedule",
                type=click.Choice(["cosine", "wsd", "constant"]),
                default="cosine",
                metavar="NAME",
                help="cosine, wsd or constant.",
            ),
            its("--warmup-steps", type=AT_LEAST_0, metavar="N", help="[default: 2 % of the steps, at most 1000]"),
            its(
                "--final-fraction",
                type=click.FloatRange(0, 1),
                default=0.1,
                metavar="X",
                help="Of the peak rate, at the end.  [default: 0.1]",
            ),
            its(
                "--weight-decay",
                type=click.FloatRange(min=0),
                default=weight_decay,
                metavar="X",
                help=f"On matrices.  [default: {weight_decay:g}]",
            ),
            its("--beta1", type=FRACTION, default=0.9, metavar="X", help="AdamW's.  [default: 0.9]"),
            its("--beta2", type=FRACTION, default=0.95, metavar="X", help="AdamW's.  [default: 0.95]"),
            its(
                "--max-grad-norm",
                type=click.FloatRange(min=0),
                default=1.0,
                metavar="X",
                help="Clip beyond it; 0: never.  [default: 1]",
            ),
            its(
                "--z-loss",
                type=click.FloatRange(min=0),
                default=0.0,
                metavar="X",
                help="Weight of the z-loss.  [default: 0]",
            ),
            its(
                "--dropout",
                type=FRACTION,
                default=0.0,
                metavar="P",
                help="On what enters the residual stream.  [default: 0]",
            ),
            its(
                "--attention-dropout",
                type=FRACTION,
                default=0.0,
                metavar="P",
                help="On the attention weights.  [default: 0]",
            ),
            its("--bf16", is_flag=True, help="Matrix products in bfloat16; weights stay float32."),
            its("--compile", "compiled", is_flag=True, help="Let torch compile the model (slow to start)."),
            its("--checkpoint-activations", is_flag=True, help="Less memory, a third more time."),
            its("--deterministic", is_flag=True, help="On a GPU: the same numbers every time, slower."),
            its(
                "--seed",
                type=AT_LEAST_0,
                default=0,
                metavar="N",
                help="Of weights, data order and dropout.  [default: 0]",
            ),
            its(
                "--on-trouble",
                type=click.Choice(["stop", "skip"]),
                default="stop",
                metavar="NAME",
                help="stop or skip, at NaN or a loss spike.",
            ),
            its(
                "--max-minutes",
                type=click.FloatRange(min=0),
                default=0.0,
                metavar="X",
                help="Save and stop after so long.",
            ),
        ]
    )


def run_flags(*, out: str, every: int = 250) -> Decorator[Any]:
    """Where it goes and what is kept. ``every``: steps between validations; half as often a checkpoint and a sample."""
    its = under("Run")
    return options.together(
        [
            its(
                "-o", "--out", type=click.Path(file_okay=False), default=out, metavar="FOLDER", help=f"[default: {out}]"
            ),
            its(
                "--eval-every",
                type=AT_LEAST_0,
                default=every,
                metavar="N",
                help=f"Steps between validations.  [default: {every}]",
            ),
            its("--eval-rows", type=COUNT, default=64, metavar="N", help="Rows of a validation.  [default: 64]"),
            its(
                "--save-every",
                type=AT_LEAST_0,
                default=2 * every,
                metavar="N",
                help=f"Steps between checkpoints.  [default: {2 * every}]",
            ),
            its("--keep", type=AT_LEAST_0, default=2, metavar="N", help="Checkpoints that stay; 0: all.  [default: 2]"),
            its(
                "--sample-every",
                type=AT_LEAST_0,
                default=2 * every,
                metavar="N",
                help=f"Steps between samples of text.  [default: {2 * every}]",
            ),
            its(
                "--record-every",
                type=AT_LEAST_0,
                metavar="N",
                help="Steps between looks at each weight; 0: no record.  [default: 10]",
            ),
            its(
                "--watch",
                type=click.IntRange(0, 65535),
                is_flag=False,
                flag_value=0,
                metavar="[PORT]",
                help="Serve the page that shows it learn.",
            ),
            its("--tensorboard", is_flag=True, help="Write TensorBoard's event files, too."),
            its("-p", "--prompt", default="", metavar="TEXT", help="How the samples begin."),
            its("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or mps."),
            its("-t", "--threads", type=COUNT, metavar="N", help="CPU threads."),
            its("--overwrite", is_flag=True, help="Begin anew where the folder holds a run."),
            its("--preview", is_flag=True, help="Show a batch and what is learned of it; train nothing."),
        ]
    )
