"""``pellucid convert``: a model as two files, its parameters and the program that runs them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pellucid.base.errors import RequestError
from pellucid.cli import options

COMPILE = "cc -O3 -march=native -pthread run.c -lm -o run && ./run parameters"


@options.command("convert")
@click.argument("model", metavar="MODEL")
@click.argument("out", metavar="OUT", type=click.Path(file_okay=False, path_type=Path))
@options.option("--two-files", is_flag=True, help="Write OUT/parameters and OUT/run.c.")
@options.option("--quantize", type=click.Choice(["q8", "q4"]), metavar="NAME", help="Fewer bits: q8 or q4; default: as the file has them.")
@options.offline
@options.quiet
def command(model: str, out: Path, two_files: bool, quantize: str | None, offline: bool, quiet: bool) -> None:
    """Write MODEL in another form into the folder OUT.

    --two-files: one file of numbers, and one C program that a person can read and any C compiler makes into a model that answers.
    """
    if not two_files:
        raise RequestError("there is nothing to convert to", expected="--two-files")
    from pellucid.auto import open_model
    from pellucid.cli.numbers import size
    from pellucid.native.two_files import convert

    about = convert(open_model(model, offline=offline), out, quantize=quantize)
    for name in ("parameters", "run.c"):
        print(out / name)
    if not quiet:
        print(f"parameters {size((out / 'parameters').stat().st_size)}, run.c {size((out / 'run.c').stat().st_size)}; {about}", file=sys.stderr)
        print(f'Next: cd {out} && {COMPILE} "your prompt"', file=sys.stderr)
