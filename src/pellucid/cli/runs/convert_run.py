"""What ``pellucid convert MODEL OUT.gguf`` does, and, with ``--quantize``, ``pellucid convert MODEL FOLDER``."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import RequestError, TokenizerError
from pellucid.base.notice import notice

if TYPE_CHECKING:
    from pellucid.checkpoint.gguf_out import Importance, Written
    from pellucid.checkpoint.imatrix import Imatrix
    from pellucid.checkpoint.open import Checkpoint

CHUNK = 512  # tokens that the model reads at a time, for an importance matrix; llama.cpp's number
MAX_CHUNKS = 64  # beyond some thirty thousand tokens the sums hardly change
STORED = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def write_gguf(
    model: str,
    out: Path,
    quantize: str | None,
    imatrix: Path | None,
    save_imatrix: Path | None,
    threads: int | None,
    *,
    offline: bool,
    quiet: bool,
) -> None:
    """One GGUF file, and a line that says what it holds."""
    from pellucid.auto import open_model
    from pellucid.checkpoint.gguf_out import plan_of, save_gguf
    from pellucid.cli.terminal.writing import WritingProgress

    checkpoint = open_model(model, offline=offline)
    mixture = quantize or _as_stored(checkpoint)
    plan_of(checkpoint.config, mixture)  # what cannot be written is said before anything long begins
    if any(array.is_blocks for array in _matrices(checkpoint)) and mixture not in ("f32", "f16", "bf16"):
        notice(f"{checkpoint.path}: its weights were quantized already, and are quantized a second time")
    tokenizer = _tokenizer(checkpoint)
    threads = threads or os.cpu_count() or 1
    importance, about = (None, {}) if imatrix is None else _importance(checkpoint, imatrix, save_imatrix, quiet)
    with closing(WritingProgress(quiet=quiet)) as progress:
        written = save_gguf(
            out, checkpoint, mixture, tokenizer=tokenizer, importance=importance, about=about, threads=threads,
            wrote=progress,
        )  # fmt: skip
    print(out)
    if not quiet:
        print(_said(written), file=sys.stderr)


def write_quantized(
    model: str, out: Path, kind: str, dtype: str | None, threads: int | None, *, offline: bool, quiet: bool
) -> None:
    """A quantized folder with the tokenizer, and a line that says what it holds."""
    from pellucid.auto import open_model, tokenizer_of
    from pellucid.checkpoint.quantized_out import save_quantized
    from pellucid.cli.terminal.writing import WritingProgress

    checkpoint = open_model(model, offline=offline)
    if checkpoint.quantization or any(array.is_blocks for array in _matrices(checkpoint)):
        notice(f"{checkpoint.path}: its weights were quantized already, and are quantized a second time")
    dtype = dtype or _float_of(checkpoint)
    with closing(WritingProgress("weights", quiet=quiet)) as progress:
        written = save_quantized(out, checkpoint, kind, dtype, threads=threads or os.cpu_count() or 1, wrote=progress)
    try:
        tokenizer_of(checkpoint).save_pretrained(out)
    except TokenizerError as error:
        if "there is no tokenizer" not in error.what:
            raise
        notice(f"{checkpoint.path}: there is no tokenizer beside the weights, so the folder has none")
    print(out)
    if not quiet:
        print(_said(written), file=sys.stderr)


def _float_of(checkpoint: Checkpoint) -> str:
    """The dtype of what is not quantized: as stored; of blocks, and of what was quantized before, bfloat16."""
    kinds = {array.dtype for array in _matrices(checkpoint)}
    return kinds.pop() if len(kinds) == 1 and kinds <= STORED.keys() and not checkpoint.quantization else "bfloat16"


def _as_stored(checkpoint: Checkpoint) -> str:
    kinds = {array.dtype for array in _matrices(checkpoint)}
    if len(kinds) == 1 and (mixture := STORED.get(next(iter(kinds)))):
        return mixture
    raise RequestError(
        "--quantize is needed: the weights are stored in " + ", ".join(sorted(kinds)), expected="--quantize q4_k_m, …"
    )


def _matrices(checkpoint: Checkpoint) -> list[Any]:
    return [array for array in checkpoint.stored.values() if len(array.shape) > 1]


def _tokenizer(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The tokenizer's metadata: of a GGUF file as they are there; None where the model has none."""
    from pellucid.auto import tokenizer_of
    from pellucid.text.gguf_out import copied, tokenizer_to_gguf

    if checkpoint.tokenizer_path is None and "tokenizer.ggml.tokens" in checkpoint.metadata:
        return copied(checkpoint.metadata)
    try:
        tokenizer = tokenizer_of(checkpoint)
    except TokenizerError as error:
        if "there is no tokenizer" not in error.what:
            raise
        notice(f"{checkpoint.path}: there is no tokenizer beside the weights, so the file has none; it takes ids alone")
        return None
    return tokenizer_to_gguf(tokenizer, checkpoint.config.vocab_size, checkpoint.config.eos_token_ids)


def _importance(
    checkpoint: Checkpoint, source: Path, save: Path | None, quiet: bool
) -> tuple[Importance, dict[str, Any]]:
    """What each column counts, from a file or from running the model on a text; and what the result says of it."""
    from pellucid.checkpoint.imatrix import read_imatrix, write_imatrix

    with open(source, "rb") as file:
        is_matrix = file.read(4) == b"GGUF"
    if is_matrix and save is not None:
        raise RequestError("--save-imatrix has no effect here", expected="it is of --imatrix TEXT")
    imatrix = read_imatrix(source) if is_matrix else _measured(checkpoint, source, quiet)
    if save is not None:
        write_imatrix(save, imatrix)
    return imatrix.importance(), imatrix.about(source.name)


def _measured(checkpoint: Checkpoint, source: Path, quiet: bool) -> Imatrix:
    """The model runs on chunks of the text, spread evenly over it."""
    from pellucid.auto import tokenizer_of
    from pellucid.base.files import read_text
    from pellucid.checkpoint.gguf_out import plan_of
    from pellucid.checkpoint.imatrix import by_their_names
    from pellucid.cli.terminal.writing import WritingProgress
    from pellucid.model.importance import input_squares
    from pellucid.model.load import load_decoder

    tokenizer = tokenizer_of(checkpoint)
    before, _ = tokenizer.around()
    ids = tokenizer.encode(read_text(source), add_special_tokens=False)
    length = min(CHUNK, checkpoint.config.context_len) - len(before)
    starts = list(range(0, max(len(ids) - length, 0) + 1, length))
    if not ids:
        raise RequestError("the calibration text is empty", where=source)
    if len(starts) > MAX_CHUNKS:
        notice(f"{source}: {MAX_CHUNKS} of {len(starts)} pieces of {length} tokens are read, spread over the text")
        starts = [starts[i * len(starts) // MAX_CHUNKS] for i in range(MAX_CHUNKS)]
    chunks = [[*before, *ids[start : start + length]] for start in starts]
    decoder = load_decoder(checkpoint.config, checkpoint.weights, "auto", "cpu")
    with closing(WritingProgress("tokens", quiet=quiet)) as progress:
        sums = input_squares(decoder, chunks, lambda done, total: progress("calibrating", source.name, done, total))
    matches = [entry.match for entry in plan_of(checkpoint.config, "f32").entries if entry.match]
    return by_their_names(
        sums, matches, datasets=(source.name,), num_chunks=len(chunks), chunk_len=length + len(before)
    )


def _said(written: Written) -> str:
    """``135 MB: q6_k 31 %, q4_k 69 %; read back and compared: errors of at most 1.9 % (q6_k), 7.3 % (q4_k)``."""
    from pellucid.cli.terminal.numbers import size

    whole = sum(written.formats.values())
    shares = sorted(written.formats.items(), key=lambda item: -item[1])
    mix = ", ".join(f"{dtype} {100 * nbytes / whole:.3g} %" for dtype, nbytes in shares)
    errors = {dtype: error for dtype, (error, _) in written.errors.items() if error}
    lost = ", ".join(
        f"{100 * error:.2g} % ({dtype})" for dtype, error in sorted(errors.items(), key=lambda one: one[1])
    )
    compared = f"every tensor within {lost} of its size" if lost else "every number as it was"
    return f"{size(written.nbytes)}: {mix}; opened again and compared: {compared}"
