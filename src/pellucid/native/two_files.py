"""``pellucid convert MODEL OUT/ --two-files``: a model as its parameters and the one C program that runs them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pellucid.base.array import Array
from pellucid.base.errors import ModelNotFoundError, TokenizerError, UnsupportedError
from pellucid.base.files import atomic_write
from pellucid.checkpoint.open import Checkpoint
from pellucid.config import ModelConfig
from pellucid.native import pack, vocabulary
from pellucid.native.claims import NATIVE
from pellucid.native.layout import ALIGNMENT, padded, plan
from pellucid.native.program import kept_as, program
from pellucid.native.vocabulary import Vocabulary
from pellucid.text.load import load_tokenizer
from pellucid.text.readers.gguf import tokenizer_from_gguf


def convert(
    checkpoint: Checkpoint, folder: str | Path, *, quantize: str | None = None, kv_cache: str | None = None
) -> str:
    """A checkpoint as ``folder/parameters`` and ``folder/run.c``; returns what to say about the tokenizer.

    Raises: UnsupportedError for a mechanism that the program lacks.
    """
    return write_two_files(
        checkpoint.config, checkpoint.weights, folder, _vocabulary(checkpoint), quantize=quantize, kv_cache=kv_cache
    )


def _vocabulary(checkpoint: Checkpoint) -> Vocabulary | str:
    path = checkpoint.tokenizer_path
    try:
        if path is None:
            return vocabulary.of(tokenizer_from_gguf(checkpoint.metadata))
        return vocabulary.of(load_tokenizer(path, vocab_size=checkpoint.config.vocab_size))
    except (TokenizerError, ModelNotFoundError):
        return "none that this can read"


def write_two_files(
    config: ModelConfig,
    weights: Mapping[str, Array],
    folder: str | Path,
    words: Vocabulary | str,
    *,
    quantize: str | None = None,
    kv_cache: str | None = None,
) -> str:
    """Write ``parameters`` and ``run.c``, each whole or not at all; ``words`` is the vocabulary, or what kind of one is
    not in here.
    """
    if refusal := NATIVE.refusal(config):
        raise UnsupportedError(f"run.c cannot be written: no program has {refusal}", where=config.model_type)
    formats = pack.formats_of(config, weights, quantize)
    layout = plan(config, formats)
    known = words if isinstance(words, Vocabulary) else None
    offset = padded(layout.size, ALIGNMENT)
    data = known.data if known else b""
    folder = Path(folder)
    with atomic_write(folder / "parameters") as file:
        pack.write_parameters(file, config, layout, weights)
        file.write(bytes(offset - layout.size) + data)
    constants = vocabulary.constants_of(known, offset, config.eos_token_ids)
    with atomic_write(folder / "run.c", "w") as file:
        file.write(
            program(
                config,
                layout,
                constants,
                offset + len(data),
                kv_cache=kv_cache or kept_as(formats),
                words=known.files if known else (),
            )
        )
    return (
        "the tokenizer is inside"
        if known
        else f"the tokenizer ({words}) is of another kind: the program takes and gives token ids"
    )
