"""How much memory answering takes at its most, said beforehand: what it is made of, by executor and dtype.

    while running    program + vocabulary + weights as they are kept + cache + work
    while loading    program + vocabulary + the weights so far + what the next one is made with, at its most

Counted as the system counts (the resident set of the process): mapped files are in it as far as they are read. The two
programs' own sizes were measured on Linux with Python 3.11, numpy 2.4 and torch 2.13 for CPUs; the rest is arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.base.array import STORAGE, Array, array_bytes
from pellucid.checkpoint.open import Checkpoint
from pellucid.cli.terminal.anatomy import BYTES_OF
from pellucid.config import AttentionConfig, LatentAttentionConfig, ModelConfig, weight_shapes, wide_weights
from pellucid.text.load import TOKENIZER_FILES

MIB = 2**20
PROGRAM = {"native": 50 * MIB, "torch": 262 * MIB}  # the interpreter and its libraries, with a model of no size
WORD = 330  # bytes that a token, or a merge of two, of a GGUF file takes as Python's text and in the tokenizer
TOLD = 10  # bytes in memory that a byte of a tokenizer's own file becomes
CHUNK = {"native": 256, "torch, float32": 128}  # tokens of a prompt computed at a time; else
CHUNK_ELSE = 512
PACKED = {True: 2.0, False: 3.7}  # what a matrix is packed with, by its size: as it was, and in tiles; blocks by parts
FETCHED = 96 * 1024  # bytes of a mapped table that one row's reading brings in
KEPT_BACK = 32  # more tokens than twice its window that torch keeps of a sliding window


@dataclass(frozen=True)
class Peak:
    """``parts`` → bytes, while a conversation of ``context_len`` tokens is answered; ``load``: before that, and of
    native the first time alone, when it packs the weights.
    """

    executor: str
    dtype: str
    parts: dict[str, int]
    load: int

    @property
    def run(self) -> int:
        return sum(self.parts.values())


def peaks(checkpoint: Checkpoint, context_len: int, native: bool) -> Iterator[Peak]:
    """Native's where it runs the model, then torch's in float32 and bfloat16, on a CPU; of one conversation."""
    headers = _headers(checkpoint)
    words = _vocabulary(checkpoint)
    if native:
        yield _native(checkpoint.config, headers, words, context_len)
    for dtype in ("float32", "bfloat16"):
        yield _torch(checkpoint.config, headers, words, context_len, dtype)


def _headers(checkpoint: Checkpoint) -> dict[str, Array]:
    """Our weights with their dtypes and shapes, and no numbers."""
    shapes, names = weight_shapes(checkpoint.config), checkpoint.weights.stored_names
    kinds = {name: checkpoint.stored[names[name]].dtype if name in names else "float32" for name in shapes}
    return {name: Array(kinds[name], shape, np.empty(0, np.uint8)) for name, shape in shapes.items()}


def _vocabulary(checkpoint: Checkpoint) -> int:
    """What the tokenizer takes, with what it was read from."""
    folder = checkpoint.tokenizer_path
    if folder is not None:
        files = [folder / name for name in TOKENIZER_FILES] if folder.is_dir() else [folder]
        return TOLD * next((file.stat().st_size for file in files if file.is_file()), 0)
    merges = checkpoint.metadata.get("tokenizer.ggml.merges", ())
    return WORD * (checkpoint.config.vocab_size + len(merges))


def _native(config: ModelConfig, headers: dict[str, Array], words: int, context_len: int) -> Peak:
    from pellucid.native.kinds import widths
    from pellucid.native.layout import plan
    from pellucid.native.pack import formats_of
    from pellucid.native.program import CHUNK as POSITIONS
    from pellucid.native.program import kept_as, ring_of

    formats = formats_of(config, headers, None)
    layout = plan(config, formats)
    size = 4 if kept_as(formats) == "f32" else 2

    def tokens(mixer: Any) -> int:
        window = getattr(mixer, "window", None)
        return context_len if window is None else min(context_len, ring_of(window) * POSITIONS)

    table = layout.entries["embed.weight"].size
    # Of a table of its own the rows that are read, each with its neighbours that the system fetches along.
    weights = layout.size - (0 if config.tie_embeddings else max(table - context_len * FETCHED, 0))
    rows = CHUNK["native"]
    wide = widths(config)
    parts = {
        "program": PROGRAM["native"],
        "vocabulary": words,
        "weights": weights,
        "cache": _cache(config, tokens, size, 4),
        "work": rows * 4 * (2 * sum(wide.values()) + 2 * max(wide.values())) + config.vocab_size * 8,
    }
    packing = max(entry.size * PACKED[entry.format in STORAGE] for entry in layout.entries.values())
    return Peak("native", "as stored", parts, PROGRAM["native"] + words + int(packing))


def _torch(config: ModelConfig, headers: dict[str, Array], words: int, context_len: int, dtype: str) -> Peak:
    size, wide = BYTES_OF[dtype], wide_weights(config)
    rows = min(CHUNK.get(f"torch, {dtype}", CHUNK_ELSE), context_len)

    def tokens(mixer: Any) -> int:
        window = getattr(mixer, "window", None)
        return context_len if window is None else min(context_len, 2 * window + KEPT_BACK)

    begin = PROGRAM["torch"] + words
    weights, load = 0, begin
    for name, array in headers.items():
        kept = math.prod(array.shape) * (4 if name in wide else size)
        made = 0 if array.dtype == dtype else array_bytes(array.dtype, array.shape)
        if array.dtype not in STORAGE and kept != math.prod(array.shape) * 4:
            made += math.prod(array.shape) * 4  # blocks become float32 first
        load = max(load, begin + weights + kept + made)
        weights += kept
    heads = max((mixer.num_heads for mixer in config.mixers if _attends(mixer)), default=0)
    widest = max(_widths(config))
    work = rows * size * (6 * config.d_model + 4 * widest + 2 * context_len * heads)
    cache = _cache(config, tokens, size, size)
    # float32 on a CPU: each product's shape is tried on random numbers when it is first met (``model.invariant``).
    tried = max(math.prod(array.shape) for array in headers.values()) * 4 if dtype == "float32" else 0
    parts = {"program": PROGRAM["torch"], "vocabulary": words, "weights": weights, "cache": cache}
    parts["work"] = max(work, tried)
    return Peak("torch", dtype, parts, load)


def _attends(mixer: object) -> bool:
    return isinstance(mixer, AttentionConfig | LatentAttentionConfig)


def _widths(config: ModelConfig) -> Iterator[int]:
    yield config.d_model
    for layer in config.layers:
        if layer.mlp:
            yield layer.mlp.d_ff * (layer.experts.experts_per_token if layer.experts else 1)


def _cache(config: ModelConfig, tokens: Callable[[Any], int], size: int, state_size: int) -> int:
    """Keys and values in numbers of ``size`` bytes, states in others."""
    return sum(
        mixer.state_bytes(tokens(mixer), size) if _attends(mixer) else mixer.state_bytes(1, state_size)
        for mixer in config.mixers
        if mixer
    )
