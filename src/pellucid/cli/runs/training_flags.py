"""Flags that every command that trains shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import click

from pellucid.cli.runs import options
from pellucid.cli.runs.options import THREADS, Decorator, option


class Number(click.FloatRange):
    """A number within bounds, and finite: NaN is below no bound and above none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


# Bounds above are far beyond what is of use, and keep a slip of the pen from filling the memory.
COUNT, AT_LEAST_0 = click.IntRange(1, 2**53), click.IntRange(0, 2**53)
SIZE = click.IntRange(1, 2**24)  # of a matrix, a row, a batch
LAYERS, EXPERTS = click.IntRange(1, 4096), click.IntRange(1, 10_000)
SEED = click.IntRange(0, 2**62)
FRACTION, NOT_NEGATIVE, POSITIVE = Number(0, 1, max_open=True), Number(min=0), Number(min=0, min_open=True)


def under(heading: str) -> Callable[..., Decorator[Any]]:
    """A maker of options that help lists under a heading."""

    def make(*flags: str, **settings: Any) -> Decorator[Any]:
        return option(*flags, heading=heading, **settings)

    return make


def training_flags(*, steps: str, lr: str, batch_size: int = 32, weight_decay: float = 0.1) -> Decorator[Any]:
    """How it learns. ``steps`` and ``lr`` say in the help what they are where they are not given."""
    training = under("Training")
    return options.together(
        [
            training("--steps", type=COUNT, metavar="N", help=f"[default: {steps}]"),
            training(
                "--batch-size",
                type=SIZE,
                default=batch_size,
                metavar="N",
                help=f"Rows of a step, over all processes.  [default: {batch_size}]",
            ),
            training("--micro-batch-size", type=SIZE, metavar="N", help="Rows of one forward pass."),
            training(
                "--optimizer",
                type=click.Choice(["adamw", "muon"]),
                default="adamw",
                metavar="NAME",
                help="adamw or muon.  [default: adamw]",
            ),
            training(
                "--lr",
                type=POSITIVE,
                metavar="X",
                help=f"Peak learning rate.  [default: {lr}]",
            ),
            training(
                "--schedule",
                type=click.Choice(["cosine", "wsd", "constant"]),
                default="cosine",
                metavar="NAME",
                help="cosine, wsd or constant.",
            ),
            training("--warmup-steps", type=AT_LEAST_0, metavar="N", help="[default: 2 % of the steps, at most 1000]"),
            training(
                "--final-fraction",
                type=Number(0, 1),
                default=0.1,
                metavar="X",
                help="Of the peak rate, at the end.  [default: 0.1]",
            ),
            training(
                "--weight-decay",
                type=NOT_NEGATIVE,
                default=weight_decay,
                metavar="X",
                help=f"On matrices.  [default: {weight_decay:g}]",
            ),
            training("--beta1", type=FRACTION, default=0.9, metavar="X", help="AdamW's.  [default: 0.9]"),
            training("--beta2", type=FRACTION, default=0.95, metavar="X", help="AdamW's.  [default: 0.95]"),
            training(
                "--max-grad-norm",
                type=NOT_NEGATIVE,
                default=1.0,
                metavar="X",
                help="Clip beyond it; 0: never.  [default: 1]",
            ),
            training(
                "--z-loss",
                type=NOT_NEGATIVE,
                default=0.0,
                metavar="X",
                help="Weight of the z-loss.  [default: 0]",
            ),
            training(
                "--dropout",
                type=FRACTION,
                default=0.0,
                metavar="P",
                help="On what enters the residual stream.  [default: 0]",
            ),
            training(
                "--attention-dropout",
                type=FRACTION,
                default=0.0,
                metavar="P",
                help="On the attention weights.  [default: 0]",
            ),
            training("--bf16", is_flag=True, help="Matrix products in bfloat16; weights stay float32."),
            training("--compile", "compiled", is_flag=True, help="Let torch compile the model (slow to start)."),
            training("--checkpoint-activations", is_flag=True, help="Less memory, a third more time."),
            training("--deterministic", is_flag=True, help="On a GPU: the same numbers every time, slower."),
            training(
                "--seed",
                type=SEED,
                default=0,
                metavar="N",
                help="Of weights, data order and dropout.  [default: 0]",
            ),
            training(
                "--on-trouble",
                type=click.Choice(["stop", "skip"]),
                default="stop",
                metavar="NAME",
                help="stop or skip, at NaN or a loss spike.",
            ),
            training(
                "--max-minutes",
                type=NOT_NEGATIVE,
                default=0.0,
                metavar="X",
                help="Save and stop after so long.",
            ),
        ]
    )


def refuse_idle_training(flags: Mapping[str, Any]) -> None:
    """Refuse what was typed and would change nothing of this run. Raises: RequestError."""
    validates, samples = bool(flags["val_fraction"]), bool(flags["sample_every"])
    options.refuse_idle(
        final_fraction=(flags["schedule"] != "constant", "goes with --schedule cosine or wsd"),
        eval_every=(validates, "goes with --val-fraction above 0"),
        eval_rows=(validates, "goes with --val-fraction above 0"),
        keep_best=(validates and bool(flags["eval_every"]), "goes with --val-fraction and --eval-every above 0"),
        patience=(validates and bool(flags["eval_every"]), "goes with --val-fraction and --eval-every above 0"),
        prompt=(samples, "goes with --sample-every above 0"),
    )


def run_flags(
    *, out: str, every: int = 250, out_dtype: str = "Of the finished model's weights.  [default: float32]"
) -> Decorator[Any]:
    """Where it goes and what is kept. ``every``: steps between validations; half as often a checkpoint and a sample."""
    run = under("Run")
    return options.together(
        [
            run(
                "-o", "--out", type=click.Path(file_okay=False), default=out, metavar="FOLDER", help=f"[default: {out}]"
            ),
            run(
                "--eval-every",
                type=AT_LEAST_0,
                default=every,
                metavar="N",
                help=f"Steps between validations.  [default: {every}]",
            ),
            run("--eval-rows", type=SIZE, default=64, metavar="N", help="Rows of a validation.  [default: 64]"),
            run(
                "--save-every",
                type=AT_LEAST_0,
                default=2 * every,
                metavar="N",
                help=f"Steps between checkpoints.  [default: {2 * every}]",
            ),
            run("--keep", type=AT_LEAST_0, default=2, metavar="N", help="Checkpoints that stay; 0: all.  [default: 2]"),
            run("--keep-best", is_flag=True, help="Keep the best validation's checkpoint; the model is that one."),
            run(
                "--patience",
                type=AT_LEAST_0,
                default=0,
                metavar="N",
                help="End after N validations no better than the best, and keep that; 0: never.",
            ),
            run(
                "--out-dtype",
                type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
                default="auto",
                metavar="NAME",
                help=out_dtype,
            ),
            run(
                "--sample-every",
                type=AT_LEAST_0,
                default=2 * every,
                metavar="N",
                help=f"Steps between samples of text.  [default: {2 * every}]",
            ),
            run(
                "--record-every",
                type=AT_LEAST_0,
                metavar="N",
                help="Steps between looks at each weight; 0: no record.  [default: 10]",
            ),
            run(
                "--watch",
                type=click.IntRange(0, 65535),
                is_flag=False,
                flag_value=0,
                metavar="[PORT]",
                help="Serve the page that shows it learn.",
            ),
            run("--tensorboard", is_flag=True, help="Write TensorBoard's event files, too."),
            run(
                "--wandb",
                is_flag=False,
                flag_value="",
                metavar="[PROJECT]",
                help="Tell Weights & Biases, too; offline unless WANDB_MODE says otherwise.",
            ),
            run(
                "--mlflow",
                is_flag=False,
                flag_value="",
                metavar="[EXPERIMENT]",
                help="Tell MLflow, too; in OUT/mlruns unless MLFLOW_TRACKING_URI says where.",
            ),
            run("-p", "--prompt", default="", metavar="TEXT", help="How the samples begin."),
            run("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or mps."),
            run("-t", "--threads", type=THREADS, metavar="N", help="CPU threads."),
            run("--overwrite", is_flag=True, help="Begin anew where the folder holds a run."),
            run("--preview", is_flag=True, help="Show a batch and what is learned of it; train nothing."),
        ]
    )
