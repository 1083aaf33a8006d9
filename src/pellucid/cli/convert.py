"""``pellucid convert``: a model as one GGUF file, as a folder, or as two files: its parameters and the program that
runs them; an adapter, or parts, as the model that they make.
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
# What a GGUF file can be stored as, largest first. Kept here so that --help need not import what writes it.
MIXTURES = (
    "f32", "bf16", "f16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0",
    "q3_k_l", "q3_k_m", "q3_k_s", "q2_k", "q2_k_s",
)  # fmt: skip
FOLDERS = ("int4", "int8", "fp8")  # likewise, of a folder


@options.command("convert")
@click.argument("model", metavar="MODEL")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@options.option("--two-files", is_flag=True, help="Write OUT/parameters and OUT/run.c.")
@options.option(
    "--quantize",
    type=click.Choice([*MIXTURES, *FOLDERS, *options.QUANTIZED]),
    metavar="NAME",
    help="OUT.gguf: q4_k_m, q5_k_m, q6_k, q8_0, bf16, …; a folder: int4, int8 or fp8; --two-files: q8 or q4; "
    "default: as the file has them.",
)
@options.option(
    "--imatrix",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Quantize by importance: a text that the model is run on, or llama.cpp's imatrix file.",
)
@options.option(
    "--save-imatrix",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep the importance matrix of the text, as llama.cpp's imatrix file.",
)
@options.option(
    "--dtype",
    type=click.Choice(options.DTYPES[1:]),
    metavar="NAME",
    help="Of a folder's weights: float32, bfloat16 or float16; default: as stored, blocks as float32.",
)
@options.option("--force", is_flag=True, help="Write over what is there under the name OUT.")
@options.option("-t", "--threads", type=options.THREADS, metavar="N", help="CPU threads; default: one a core.")
@options.kv_cache
@options.offline
@options.quiet
def command(
    model: str,
    out: Path,
    two_files: bool,
    quantize: str | None,
    imatrix: Path | None,
    save_imatrix: Path | None,
    dtype: str | None,
    force: bool,
    threads: int | None,
    kv_cache: str | None,
    offline: bool,
    quiet: bool,
) -> None:
    """Write MODEL as a GGUF file, a folder, or a program.

    OUT.gguf: one file that llama.cpp and its relatives read, too, tokenizer and chat template within; --quantize says
    in how many bits. It is opened again and compared before it takes its name.

    A folder: config.json, safetensors and tokenizer, as Hugging Face has them, of a GGUF file or in another --dtype; an
    adapter is merged into the model that it adapts, parts that several processes saved in training are put together.
    With --quantize int4, int8 or fp8 its matrices are compressed-tensors, which transformers and vLLM read, too.

    --two-files: one file of numbers, and one C program that a person can read and any C compiler makes into a model
    that answers.
    """
    is_file = out.suffix == ".gguf" and not two_files
    is_quantized = quantize in FOLDERS
    options.refuse_idle(
        kv_cache=(two_files, "is of --two-files"),
        quiet=(two_files or is_file or is_quantized, "is of --two-files, of OUT.gguf and of a quantized folder"),
        imatrix=(is_file, "is of OUT.gguf"),
        save_imatrix=(is_file and imatrix is not None, "is of OUT.gguf with --imatrix TEXT"),
        threads=(is_file or is_quantized, "is of OUT.gguf and of a quantized folder"),
        dtype=(not is_file and not two_files, "is of a folder"),
    )
    there_are = options.QUANTIZED if two_files else MIXTURES if is_file else FOLDERS
    if quantize is not None and quantize not in there_are:
        raise RequestError(f"--quantize {quantize} is not for this form", expected=", ".join(there_are))
    if not force:
        _refuse_over(out, is_file)
    if is_file:
        from pellucid.cli.runs.convert_run import write_gguf

        write_gguf(model, out, quantize, imatrix, save_imatrix, threads, offline=offline, quiet=quiet)
    elif two_files:
        _write_two_files(model, out, quantize, kv_cache, offline, quiet)
    elif quantize is not None:
        from pellucid.cli.runs.convert_run import write_quantized

        write_quantized(model, out, quantize, dtype, threads, offline=offline, quiet=quiet)
    else:
        _write_folder(model, out, dtype, offline)


def _refuse_over(out: Path, is_file: bool) -> None:
    """Raises: RequestError where a model is there already under that name: it may be all that somebody has."""
    names = [out] if is_file else [out / name for name in ("config.json", "parameters", "run.c")]
    if there := next((name for name in names if name.exists()), None):
        raise RequestError(f"{there} is there already", remedy="another name, or --force to write over it")


def _write_two_files(
    model: str, out: Path, quantize: str | None, kv_cache: str | None, offline: bool, quiet: bool
) -> None:
    from pellucid.auto import open_model
    from pellucid.cli.terminal.numbers import size
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


def _write_folder(model: str, out: Path, dtype: str | None, offline: bool) -> None:
    from pellucid.auto import locate, open_model
    from pellucid.checkpoint.adapters.adapted import is_adapter
    from pellucid.checkpoint.files.distributed import is_distributed

    path = locate(model, offline=offline)
    made_of_parts = is_adapter(path) or is_distributed(path)
    checkpoint = open_model(model, offline=offline)
    plain = checkpoint.kind == "safetensors" and checkpoint.quantization is None
    if not made_of_parts and dtype is None and plain:
        raise RequestError(
            "there is nothing to convert to",
            expected="OUT.gguf, --dtype, --quantize, --two-files, an adapter to merge, or parts to put together",
        )
    _write_whole(checkpoint, out, dtype)
    print(out)


def _write_whole(checkpoint: Checkpoint, out: Path, dtype: str | None) -> None:
    """The whole model, and its tokenizer where there is one."""
    from pellucid.auto import tokenizer_of
    from pellucid.checkpoint.adapters.adapted import save_merged

    save_merged(checkpoint, out, dtype)
    with suppress(TokenizerError):
        tokenizer_of(checkpoint).save_pretrained(out)
