"""``pellucid evaluate``: how well a model predicts a text, how far it is from another, and which answers it chooses."""

from __future__ import annotations

import json
from typing import Any

import click

from pellucid.cli.runs import options
from pellucid.cli.runs.run_config import config
from pellucid.cli.runs.training_flags import COUNT, THREADS, under

_what, _data, _model = under("What"), under("Data"), under("Model")
FILE = click.Path(dir_okay=False)


@options.command("evaluate")
@options.model
@_what(
    "-d",
    "--data",
    multiple=True,
    metavar="TEXT",
    help="Texts: a file, folder or glob, or hf:NAME[:CONFIG][:SPLIT]; can be given again.",
)
@_what(
    "--against",
    metavar="NAME",
    help="A second model, or a dtype (float32, …) or q8, q4 of the same: how far apart they are on the texts.",
)
@_what(
    "--choices",
    type=FILE,
    metavar="FILE",
    help="JSON lines of question, choices, answer: the likeliest choice is the model's.",
)
@_what("--tasks", metavar="NAMES", help="Tasks of the lm-eval harness, by commas (pip install 'pellucid[lm-eval]').")
@_data(
    "--task-folder", type=click.Path(file_okay=False), metavar="FOLDER", help="Further lm-eval tasks, as YAML files."
)
@_data(
    "--num-fewshot",
    type=click.IntRange(0, 1000),
    metavar="N",
    help="Examples before each question of a task.  [default: the task's]",
)
@_data("--apply-chat-template", is_flag=True, help="Ask tasks as a conversation, in the model's chat format.")
@_data(
    "--fewshot-as-multiturn/--fewshot-in-one-turn",
    default=None,
    help="Whether examples are turns of the conversation.  [default: the harness's]",
)
@_data("-sys", "--system", metavar="TEXT", help="A system message before each question of a task.")
@_data("--batch-size", type=click.IntRange(1, 4096), metavar="N", help="Rows of a task at a time.  [default: 8]")
@_data("--text-field", multiple=True, metavar="NAME", help="Field of a JSON object.  [default: text]")
@_data("--separator", metavar="LINE", help="A line between the documents of a plain text.")
@_data("--max-bytes", type=COUNT, metavar="N", help="Stop after so much text.")
@_data("--limit", type=COUNT, metavar="N", help="Stop after so many examples of a task, or questions.")
@_data("--stride", type=COUNT, metavar="N", help="Tokens scored in a window.  [default: half the context]")
@options.context_size
@_model(
    "--dtype",
    type=click.Choice(options.DTYPES),
    metavar="NAME",
    default="auto",
    help="auto, float32, bfloat16 or float16.",
)
@_model(
    "--quantize", type=click.Choice(options.QUANTIZED), metavar="NAME", help="q8 or q4: the layers' matrices in blocks."
)
@_model("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or mps.")
@_model("-t", "--threads", type=THREADS, metavar="N", help="CPU threads.")
@options.offline
@config
@options.as_json
@options.quiet
def command(config: str | None, as_json: bool, quiet: bool, **flags: Any) -> None:
    """Measure perplexity, multiple choice, or what a format costs.

    pellucid evaluate -m smollm2 -d book.txt --stride 512

    pellucid evaluate -m smollm2 -d book.txt --quantize q4 --against float32

    pellucid evaluate -m smollm2 --choices quiz.jsonl

    Each document is scored alone, in windows of the context that advance by the stride. Bits per byte compare between
    tokenizers; perplexities do not. Answers to a file of prompts: pellucid generate --prompts FILE --json
    """
    from pellucid.cli.runs.evaluate_run import Measuring, measure
    from pellucid.cli.terminal.console import status

    measuring = Measuring(**flags)
    with status("") as tell:
        figures = measure(measuring, (lambda _: None) if quiet else tell)
    if as_json:
        print(json.dumps(figures))
    elif measuring.tasks:
        _print_tasks(figures)
    else:
        _print(figures, quiet)


WORDS = {
    "mean_kl": ("KL", "{:.5f} nats a token, of the reference from the model"),
    "top1_agreement": ("same top token", "{:.2%}"),
    "perplexity": ("perplexity", "{:.4f} a token"),
    "reference_perplexity": ("  reference's", "{:.4f}"),
    "bits_per_byte": ("bits per byte", "{:.4f}"),
    "reference_bits_per_byte": ("  reference's", "{:.4f}"),
    "acc": ("right", "{:.2%}"),
    "acc_norm": ("by length", "{:.2%} (log p for each character)"),
}


def _print(figures: dict[str, Any], quiet: bool) -> None:
    from pellucid.cli.terminal.console import notice

    for name, (word, form) in WORDS.items():
        if name in figures:
            print(f"{word:15}{form.format(figures[name])}")
    if quiet:
        return
    if "num_scored" in figures:
        notice("{num_scored:,} tokens, {num_bytes:,} bytes; context {context_len}, stride {stride}".format(**figures))
    else:
        notice(f"{figures['num_questions']:,} questions")


def _print_tasks(figures_of_tasks: dict[str, Any]) -> None:
    for task, figures in figures_of_tasks.items():
        for name, value in figures.items():
            print(f"{task:30}{name:30}{value:.4f}")
