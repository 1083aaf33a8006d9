"""``pellucid convert``: a model as two files, its parameters and the program that runs them; an adapter, or parts, as
the model that they make.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pellucid.base.errors import RequestError, TokenizerError
from pellucid.cli.runs import options

if TYPE_CHECKING:
    from pellucid.checkpoint.open import Checkpoint

COMPILE = "cc -O3 -march=native -pthread run.c -lm -o run && ./run parameters"


@options.command("convert")
@click.argument("model", metavar="MODEL")
@click.argument("out", metavar="OUT", type=click.Path(file_okay=False, path_type=Path))
@options.option("--two-files", is_flag=True, help="Write OUT/parameters and OUT/run.c.")
@options.option(
    "--quantize",
    type=click.Choice(options.QUANTIZED),
    metavar="NAME",
    help="Fewer bits: q8 or q4; default: as the file has them.",
)
@options.kv_cache
@options.offline
@options.quiet
def command(
    model: str, out: Path, two_files: bool, quantize: str | None, kv_cache: str | None, offline: bool, quiet: bool
) -> None:
    """Write MODEL in another form into the folder OUT.

    --two-files: one file of numbers, and one C program that a person can read and any C compiler makes into a model
    that answers. Without it, an adapter is merged into the model that it adapts, and the parts that several processes
    saved in training are put together; what comes of it is a folder like any other model's.
    """
    from pellucid.auto import locate, open_model
    from pellucid.checkpoint.adapters.adapted import is_adapter
    from pellucid.checkpoint.files.distributed import is_distributed
    from pellucid.cli.terminal.numbers import size

    options.refuse_idle(kv_cache=(two_files, "is of --two-files"), quiet=(two_files, "is of --two-files"))
    if not two_files:
        path = locate(model, offline=offline)
        if quantize or not (is_adapter(path) or is_distributed(path)):
            raise RequestError(
                "there is nothing to convert to", expected="--two-files, an adapter to merge, or parts to put together"
            )
        _write_whole(open_model(model, offline=offline), out)
        print(out)
        return
    from pellucid.native.two_files import convert

    about = convert(open_model(model, offline=offline), out, quantize=quantize, kv_cache=kv_cache)
    for name in ("parameters", "run.c"):
        print(out / name)
    if not quiet:
        print(
            ", ".join(f"{name} {size((out / name).stat().st_size)}" for name in ("parameters", "run.c")) + f"; {about}",
            file=sys.stderr,
        )
        print(f'Next: cd {out} && {COMPILE} "your prompt"', file=sys.stderr)


def _write_whole(checkpoint: Checkpoint, out: Path) -> None:
    """The whole model, and its tokenizer where there is one."""
    from pellucid.auto import tokenizer_of
    from pellucid.checkpoint.adapters.adapted import save_merged

    save_merged(checkpoint, out)
    with suppress(TokenizerError):
        tokenizer_of(checkpoint).save_pretrained(out)
