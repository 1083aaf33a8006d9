"""``pellucid finetune``: from a model that writes to one that does as it was shown."""

from __future__ import annotations

from typing import Any

import click

from pellucid.cli.runs import options
from pellucid.cli.runs.run_config import config
from pellucid.cli.runs.training_flags import (
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    SIZE,
    refuse_idle_training,
    run_flags,
    training_flags,
    under,
)


class TooLong(click.Choice[str]):
    """cut, skip or error; ``truncate`` and ``stop`` are what runs before this version have in their files."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert({"truncate": "cut", "stop": "error"}.get(value, value), param, ctx)


METHODS = ("lora", "full", "dpo", "dpo-full", "orpo", "orpo-full", "simpo", "simpo-full", "kto")
_data, _method = under("Data"), under("Method")
data = options.together(
    [
        _data(
            "-d",
            "--data",
            multiple=True,
            metavar="FILE",
            help="JSON lines or lists, CSV, Parquet: a file, folder, glob, or hf:NAME; can be given again.",
        ),
        _data(
            "--fields",
            metavar="NAME=COLUMN,…",
            help="Which columns are what: user=question,assistant=answer; system, text, chosen, rejected … likewise.",
        ),
        _data(
            "-sys",
            "--system",
            metavar="TEXT",
            help="A system message for conversations that have none of their own.",
        ),
        _data(
            "--fill",
            multiple=True,
            metavar="NAME=TEXT",
            help="What takes the place of {{NAME}} in the data; can be given again.",
        ),
        _data(
            "--chat-template",
            type=click.Path(dir_okay=False),
            metavar="FILE",
            help="A Jinja file to use instead of the model's.",
        ),
        _data(
            "--context-len",
            type=SIZE,
            metavar="N",
            help="Tokens of an example.  [default: 1024, or the model's context]",
        ),
        _data(
            "--on-too-long",
            type=TooLong(["cut", "skip", "error"]),
            default="cut",
            metavar="NAME",
            help="cut, skip or error; what has nothing to learn left is skipped.  [default: cut]",
        ),
        _data(
            "--learn",
            type=click.Choice(["all", "last"]),
            default="all",
            metavar="NAME",
            help="all answers of a conversation, or its last alone.  [default: all]",
        ),
        _data("--keep-empty", is_flag=True, help="Learn from empty answers, too: that nothing is to be said."),
        _data("--pack/--pad", default=False, help="Several examples a row, or one.  [default: pad]"),
        _data(
            "--val-fraction",
            type=FRACTION,
            default=0.05,
            metavar="X",
            help="Held back, of the records.  [default: 0.05]",
        ),
    ]
)
method = options.together(
    [
        _method(
            "--method",
            type=click.Choice(METHODS),
            default="lora",
            metavar="NAME",
            help="lora, full; from preferences dpo, orpo, simpo (LoRA; dpo-full …: all weights), from answers judged"
            " good or bad kto.  [default: lora]",
        ),
        _method("--lora-rank", type=SIZE, default=16, metavar="N", help="Of each update.  [default: 16]"),
        _method(
            "--lora-alpha",
            type=POSITIVE,
            metavar="X",
            help="Updates count alpha / rank.  [default: 2 × rank]",
        ),
        _method(
            "--lora-targets",
            default="all-linear",
            metavar="NAMES",
            help="Linear maps, with commas between.  [default: all-linear]",
        ),
        _method(
            "--lora-dropout", type=FRACTION, default=0.0, metavar="P", help="Of what enters an update.  [default: 0]"
        ),
        _method("--dora", is_flag=True, help="Learn the lengths of the weights' rows as well (DoRA)."),
        _method("--rslora", is_flag=True, help="Updates count alpha / √rank instead."),
        _method(
            "--modules-to-save",
            metavar="NAMES",
            help="What learns all of its weights beside: embed_tokens, lm_head, norms; with commas between.",
        ),
        _method("--merge/--no-merge", default=True, help="A whole model in the end, or an adapter.  [default: merge]"),
        _method(
            "--quantize",
            type=click.Choice(options.QUANTIZED),
            metavar="NAME",
            help="q8 or q4: hold the frozen weights in 8 or 4 bits (QLoRA).",
        ),
        _method(
            "--beta",
            type=POSITIVE,
            metavar="X",
            help="DPO, KTO: how near to stay; ORPO, SimPO: weight of the difference.  [default: 0.1; SimPO 2]",
        ),
        _method("--gamma", type=NOT_NEGATIVE, default=1.0, metavar="X", help="SimPO: its margin.  [default: 1]"),
        _method("--good-weight", type=POSITIVE, default=1.0, metavar="X", help="KTO: of a good answer.  [default: 1]"),
        _method("--bad-weight", type=POSITIVE, default=1.0, metavar="X", help="KTO: of a bad answer.  [default: 1]"),
        _method(
            "--epochs",
            type=POSITIVE,
            default=3.0,
            metavar="X",
            help="Times over the data.  [default: 3]",
        ),
    ]
)


@options.command("finetune")
@options.model
@options.offline
@data
@method
@training_flags(steps="as many as --epochs takes", lr="by method and width", batch_size=8, weight_decay=0.0)
@run_flags(
    out="runs/finetune",
    every=50,
    out_dtype="Of the finished model's weights.  [default: the base's; bfloat16 for one in blocks]",
)
@config
@options.quiet
@click.pass_context
def command(
    ctx: click.Context, config: str | None, quiet: bool, overwrite: bool, preview: bool, out: str, **flags: Any
) -> None:
    """Train a model further on conversations or preferences.

    pellucid finetune -m smollm2 -d conversations.jsonl -o runs/mine

    Of a conversation the assistant's words are learned, of a prompt and its completion the completion; --preview shows
    them. Records: text; prompt, completion; messages; conversations; question, answer; instruction, input, output;
    chosen, rejected (for --method dpo); prompt, completion, label (for kto); of other columns --fields. A run that was
    stopped goes on when the same command is given again. Then: pellucid chat -m runs/mine
    """
    from pathlib import Path

    from pellucid.cli.runs.finetune_run import finetune

    whole, kind = flags["method"].endswith("full"), flags["method"].removesuffix("-full")
    by_words = kind in ("lora", "full")
    of_lora = (not whole, "goes with --method lora or dpo")
    options.refuse_idle(
        lora_rank=of_lora,
        lora_alpha=of_lora,
        lora_targets=of_lora,
        lora_dropout=of_lora,
        dora=of_lora,
        rslora=of_lora,
        modules_to_save=of_lora,
        merge=of_lora,
        out_dtype=(whole or flags["merge"], "goes with a whole model: an adapter is float32"),
        beta=(not by_words, "goes with --method dpo, orpo, simpo or kto"),
        gamma=(kind == "simpo", "goes with --method simpo"),
        good_weight=(kind == "kto", "goes with --method kto"),
        bad_weight=(kind == "kto", "goes with --method kto"),
        z_loss=(by_words, "goes with --method lora or full"),
        epochs=(flags["steps"] is None, "goes without --steps"),
    )
    refuse_idle_training(flags)
    finetune(Path(out), flags, quiet=quiet, overwrite=overwrite, preview=preview)
