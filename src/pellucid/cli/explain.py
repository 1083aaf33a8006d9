"""``pellucid explain``: the walk through a run, one step of it, one cell of it, or the page."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pellucid.base.errors import RequestError
from pellucid.cli.runs import options

if TYPE_CHECKING:
    from pellucid.explain.record import Record
    from pellucid.explain.subject import Subject
    from pellucid.explain.training.view import Training


@options.command("explain")
@click.argument("text", metavar="[PROMPT | RUN]", required=False)
@options.model
@options.option(
    "--dtype",
    type=click.Choice(options.DTYPES),
    metavar="NAME",
    default="auto",
    help="auto, float32, bfloat16 or float16.",
    heading="Model",
)
@options.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps.", heading="Model")
@options.option(
    "-t",
    "--threads",
    type=options.THREADS,
    metavar="N",
    help="CPU threads; default: one a core.",
    heading="Model",
)
@options.option(
    "--executor",
    type=click.Choice(["torch", "native"]),
    metavar="NAME",
    default="torch",
    help="Whose run: torch or native.",
    heading="Model",
)
@options.option(
    "--quantize",
    type=click.Choice(options.QUANTIZED),
    metavar="NAME",
    help="Of native: fewer bits, q8 or q4.",
    heading="Model",
)
@options.offline
@options.prompt
@options.option("--chat", is_flag=True, help="The prompt as a user's message, in the chat template.", heading="Prompt")
@options.system
@options.option("--layer", type=int, metavar="N", help="Only this layer, every step of it.", heading="What to show")
@options.option("--step", metavar="STEP", help="One step: layers.3.pattern, logits, …", heading="What to show")
@options.option(
    "--cell",
    metavar="I,J,…",
    help="One number of --step, with its operands; the text's row is left out.",
    heading="What to show",
)
@options.option(
    "--position",
    type=int,
    default=-1,
    metavar="N",
    help="The token to look from; default: the last.",
    heading="What to show",
)
@options.option(
    "--target",
    metavar="TEXT",
    help="A token of your own: how likely it is, and how surprising.",
    heading="What to show",
)
@options.option(
    "--html",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the page, one file that works offline.",
    heading="The page",
)
@options.option(
    "--max-size",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    metavar="MB",
    help="Of --html; default: 20.",
    heading="The page",
)
@options.option(
    "--open",
    "open_page",
    is_flag=True,
    help="Open the page in the browser, served from this machine.",
    heading="The page",
)
@options.option(
    "--beside",
    multiple=True,
    metavar="NAME",
    help="Of --open: another model to compare with; can be given again.",
    heading="The page",
)
@options.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="Of --open; default: a free one.",
    heading="The page",
)
@options.as_json
def command(
    text: str | None,
    model: str,
    prompt: str | None,
    layer: int | None,
    step: str | None,
    cell: str | None,
    position: int,
    target: str | None,
    html: str | None,
    max_size: float,
    open_page: bool,
    beside: tuple[str, ...],
    port: int,
    as_json: bool,
    **flags: Any,
) -> None:
    """Show every step of a run.

    The walk: the prompt's tokens, what each layer adds, would say and looks at, the prediction. Or one layer, one step,
    one cell.

    Every number comes from the model's own forward pass, and the last line says how well all of them agree with their
    equations. With --executor native they are those of the compiled program, and each step says how far it is from
    torch's float32 on the same weights. Without PROMPT, or -p, what is piped in is read. Where PROMPT is the folder of
    a training run, the page shows how its model learned, and (from its first checkpoint on) the model itself.
    """
    from pellucid.checkpoint.sources.resolve import resolve
    from pellucid.cli.runs import explain_print as show
    from pellucid.cli.runs.explain_run import explain_run, is_run, looks_like_a_folder, training_of
    from pellucid.cli.terminal.at_hand import at_hand
    from pellucid.cli.terminal.console import notice, status
    from pellucid.cli.terminal.numbers import size
    from pellucid.cli.terminal.prompts import read_stdin

    if cell is not None and step is None:
        raise RequestError("--cell is a number of one step", remedy="name it: --step layers.3.z --cell 0,5,3")
    run, page = text is not None and is_run(text), html is not None or open_page
    printed = not (page or run)
    walk = printed and step is None and layer is None
    pinned = html is not None and not open_page and cell is not None
    options.refuse_idle(
        prompt=(text is None or run, "stands for PROMPT, which is there"),
        chat=(not run, "is about a prompt"),
        system=(not run, "is about a prompt"),
        layer=(printed and step is None, "is printed where neither --step nor the page is asked for"),
        step=(printed or pinned, "is printed, or with --cell pinned to the page that --html writes"),
        cell=(printed or pinned, "is printed, or pinned to the page that --html writes"),
        position=(printed and cell is None, "is where the walk, a layer or a step is printed from"),
        target=(walk, "is of the walk"),
        max_size=(html is not None, "bounds the page that --html writes"),
        beside=(open_page and not run, "is of --open"),
        port=(open_page or (run and html is None), "is of --open"),
        open_page=(not (run and html is not None), "and --html exclude each other for a training run"),
        as_json=(printed, "is of what is printed"),
    )
    folder = Path(html or ".").absolute().parent
    if html is not None and not (folder.is_dir() and os.access(folder, os.W_OK)):  # said before the work, not after it
        raise RequestError(
            "the page cannot be written there",
            where=html,
            expected="a file in a folder that exists and can be written to",
        )
    if text is not None and run:
        explain_run(
            Path(text), prompt, lambda name: _subject(name, flags), html=html, max_size=max_size, port=port, say=notice
        )
        if html is not None:
            notice(f"{html}: {size(Path(html).stat().st_size)}")
        return
    if text is not None and looks_like_a_folder(text):
        notice(f"{text} is no folder of a training run: it is explained as a text")
    text = text if text is not None else prompt if prompt is not None else read_stdin()
    if model == options.DEFAULT_MODEL:
        model = at_hand(model, partial(resolve, offline=flags["offline"]))
    with status(f"loading {model} …") as say:
        subject = _subject(model, flags)
        in_template = flags["chat"] or flags["system"] is not None
        content = _in_template(subject.tokenizer, text, flags["system"]) if in_template else text
        others = {name: _subject(name, flags) for name in beside} if open_page else {}
        say("running …")
        trace = _trace(
            subject, content, position, layer, step, whole=open_page or html is not None or subject.native is not None
        )
        if step is None and layer is None and html is None and not open_page:
            say("checking …")
            from pellucid.explain.checks import check

            checks = check(trace)
        if html is not None:
            say("writing the page …")
            _write(
                trace,
                subject,
                html,
                max_size,
                training_of(model),
                [] if step is None or cell is None else [(step, _index(cell))],
            )
    if open_page:
        from pellucid.explain.show.server import serve_page
        from pellucid.explain.show.view import View

        serve_page(View(subject, first=trace, others=others, training=training_of(model)), port, open_browser=True)
    elif html is not None:
        notice(f"{html}: {size(Path(html).stat().st_size)}")
    elif step is not None and cell is not None:
        show.print_cell(trace, step, _index(cell), as_json)
    elif step is not None:
        show.print_step(trace, step, position, as_json)
    elif layer is not None:
        show.print_layer(trace, layer, position, as_json)
    else:
        show.print_walk(trace, checks, subject.name, position, target, as_json)


def _subject(name: str, flags: dict[str, Any]) -> Subject:
    """The model of that name, loaded, with its tokenizer."""
    from pellucid.auto import open_model, tokenizer_of
    from pellucid.explain.subject import Subject
    from pellucid.model.load import load_decoder

    if flags["threads"] is not None:
        import torch

        torch.set_num_threads(flags["threads"])
    is_native = flags["executor"] == "native"
    if is_native and (flags["dtype"] != "auto" or flags["device"] not in ("auto", "cpu")):
        raise RequestError(
            "--dtype and --device are torch's",
            remedy="the native executor takes weights as the file has them; --quantize takes fewer bits",
        )
    if flags["quantize"] and not is_native:
        raise RequestError("--quantize is the native executor's", remedy="add --executor native")
    checkpoint = open_model(name, offline=flags["offline"])
    tokenizer = tokenizer_of(checkpoint)
    if is_native:
        from pellucid.auto import state_of
        from pellucid.explain.native import Native

        settings = {name: flags[name] for name in ("quantize", "threads")}
        native = Native(checkpoint.config, checkpoint.weights, source_id=state_of(checkpoint), **settings)
        return Subject.of(checkpoint, native.decoder, tokenizer, native=native)
    decoder = load_decoder(checkpoint.config, checkpoint.weights, flags["dtype"], flags["device"])
    return Subject.of(checkpoint, decoder, tokenizer)


def _in_template(tokenizer: Any, text: str, system: str | None) -> list[int]:
    from pellucid.cli.terminal.prompts import chat_messages

    return tokenizer.apply_chat_template(chat_messages(text, system), add_generation_prompt=True, return_dict=False)


def _trace(subject: Subject, text: Any, position: int, layer: int | None, step: str | None, whole: bool) -> Record:
    """The run, with all its steps where memory allows; else with what was asked for, at one position."""
    from pellucid.explain.questions.walk import STEPS
    from pellucid.explain.record import TooLargeError

    try:
        return subject.record(text)
    except TooLargeError:
        if whole:
            raise
        steps = [step] if step else None if layer is not None else STEPS
        layers = None if layer is None else [layer]
        return subject.record(text, positions=[position], layers=layers, steps=steps)


def _index(cell: str) -> tuple[int, ...]:
    try:
        return (0, *(int(part) for part in cell.split(",")))
    except ValueError:
        raise RequestError(
            "a cell is named by whole numbers", where="--cell", expected="I,J,…", received=repr(cell)
        ) from None


def _write(
    trace: Record,
    subject: Subject,
    file: str,
    max_size: float,
    training: Training | None,
    pinned: list[tuple[str, tuple[int, ...]]],
) -> None:
    from pellucid.explain.show.html import write_page

    write_page(trace, file, max_bytes=int(max_size * 1e6), subject=subject, pinned=pinned, training=training)
