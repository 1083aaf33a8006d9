"""``pellucid convert MODEL OUT/ --two-files``: a model as its parameters and the one C program that runs them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError
from pellucid.base.files import atomic_write
from pellucid.config import ModelConfig
from pellucid.native import pack, vocabulary
from pellucid.native.layout import ALIGNMENT, padded, plan
from pellucid.native.program import program, supports


def write_two_files(
    config: ModelConfig,
    weights: Mapping[str, Array],
    folder: str | Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    tokens: list[tuple[bytes, float]] | None = None,
    quantize: str | None = None,
) -> str:
    """Write ``parameters`` and ``run.c``; returns what to say about the tokenizer.

    ``metadata``: a GGUF file's; ``tokens``: a llama2.c vocabulary's. Each file is whole or absent.
    Raises: UnsupportedError for a mechanism that the program lacks.
    """
    if reason := supports(config):
        raise UnsupportedError(f"run.c cannot be written: it lacks {reason}", where=config.model_type)
    formats = pack.formats_of(config, weights, quantize)
    layout = plan(config, formats)
    found = vocabulary.from_llama2c(tokens) if tokens else vocabulary.from_gguf(metadata) if metadata else "none that this can read"
    words = found if isinstance(found, vocabulary.Vocabulary) else None
    offset = padded(layout.size, ALIGNMENT)
    data = words.data if words else b""
    folder = Path(folder)
    with atomic_write(folder / "parameters") as file:
        pack.write_parameters(file, config, layout, weights)
        file.write(bytes(offset - layout.size) + data)
    constants = vocabulary.constants_of(words, offset, config.eos_token_ids)
    with atomic_write(folder / "run.c", "w") as file:
        file.write(program(config, layout, constants, offset + len(data), half_cache="float32" not in formats.values(), words=words is not None))
    return "the tokenizer is inside" if words else f"the tokenizer ({found}) is of another kind: the program takes and gives token ids"
