"""``pellucid evaluate``: how well a model predicts a text, how far it is from another, and which answers it chooses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pellucid.base.errors import RequestError
from pellucid.cli.runs import options
from pellucid.cli.runs.run_config import config
from pellucid.cli.runs.training_flags import COUNT, under

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
@_data("--text-field", multiple=True, metavar="NAME", help="Field of a JSON object.  [default: text]")
@_data("--separator", metavar="LINE", help="A line between the documents of a plain text.")
@_data("--max-bytes", type=COUNT, metavar="N", help="Stop after so much text.")
@_data("--limit", type=COUNT, metavar="N", help="Stop after so many examples of a task.")
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
@_model("-t", "--threads", type=COUNT, metavar="N", help="CPU threads.")
@options.offline
@config
@options.as_json
@options.quiet
def command(
    model: str,
    data: tuple[str, ...],
    against: str | None,
    choices: str | None,
    tasks: str | None,
    task_folder: str | None,
    text_field: tuple[str, ...],
    separator: str | None,
    max_bytes: int | None,
    limit: int | None,
    stride: int | None,
    context_len: int | None,
    dtype: str,
    quantize: str | None,
    device: str,
    threads: int | None,
    offline: bool,
    config: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure perplexity, multiple choice, or what a format costs.

    pellucid evaluate -m smollm2 -d book.txt --stride 512

    pellucid evaluate -m smollm2 -d book.txt --quantize q4 --against float32

    pellucid evaluate -m smollm2 --choices quiz.jsonl

    Each document is scored alone, in windows of the context that advance by the stride. Bits per byte compare between
    tokenizers; perplexities do not. Answers to a file of prompts: pellucid generate --prompts FILE --json
    """
    import torch

    from pellucid.auto import load_model
    from pellucid.cli.runs.evaluate_run import Texts, choose, load_reference
    from pellucid.cli.terminal.console import status
    from pellucid.train.data.sources import find_sources

    if sum(map(bool, (data, choices, tasks))) != 1:
        raise RequestError(
            "evaluate measures one thing",
            expected="-d TEXT (with or without --against), --choices FILE, or --tasks NAMES",
        )
    if against and not data:
        raise RequestError("there is no text to compare the models on", remedy="-d FILE_OR_FOLDER")
    if threads:
        torch.set_num_threads(threads)
    sources = find_sources(data)
    shared = {"offline": offline, "device": device}
    with status("" if quiet else f"loading {model} …") as tell:
        decoder, tokenizer = load_model(model, **shared, dtype=dtype, quantize=quantize)
        reference = load_reference(against, model, **shared) if against else None

        def say(text: str) -> None:
            if not quiet:
                tell(text)

        if choices:
            found: dict[str, Any] = choose(decoder, tokenizer, Path(choices), say)
        elif tasks:
            from pellucid.harness import run_tasks

            found = run_tasks(decoder, tokenizer, tasks.split(","), folder=task_folder, limit=limit)
        else:
            longest = min(its.config.context_len for its in (decoder, reference) if its is not None)
            context_len = min(context_len or longest, longest)
            texts = Texts(sources, text_field, separator, max_bytes, context_len, stride or max(context_len // 2, 1))
            found = _of_texts(texts, decoder, reference, tokenizer, say)
    if as_json:
        print(json.dumps(found))
    elif tasks:
        _print_tasks(found)
    else:
        _print(found, quiet)


def _of_texts(texts: Any, model: Any, reference: Any, tokenizer: Any, say: Any) -> dict[str, Any]:
    if reference is None:
        its = texts.evaluate(model, tokenizer, say)
        return {**vars(its), "perplexity": its.perplexity, "bits_per_byte": its.bits_per_byte}
    its = texts.compare(model, reference, tokenizer, say)
    return {
        "mean_kl": its.mean_kl,
        "top1_agreement": its.top1_agreement,
        "perplexity": its.model.perplexity,
        "reference_perplexity": its.reference.perplexity,
        "bits_per_byte": its.model.bits_per_byte,
        "reference_bits_per_byte": its.reference.bits_per_byte,
        **{name: getattr(its.model, name) for name in ("num_scored", "num_bytes", "context_len", "stride")},
    }


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


def _print(found: dict[str, Any], quiet: bool) -> None:
    from pellucid.cli.terminal.console import notice

    for name, (word, form) in WORDS.items():
        if name in found:
            print(f"{word:15}{form.format(found[name])}")
    if quiet:
        return
    if "num_scored" in found:
        notice("{num_scored:,} tokens, {num_bytes:,} bytes; context {context_len}, stride {stride}".format(**found))
    else:
        notice(f"{found['num_questions']:,} questions")


def _print_tasks(found: dict[str, Any]) -> None:
    for task, figures in found.items():
        for name, value in figures.items():
            print(f"{task:30}{name:30}{value:.4f}")
