"""A tokenizer's vocabulary for the two-files program: the bytes that stand behind the weights, and the constants that say what they are.

Two kinds are known: SentencePiece (scores), and byte-level BPE (merges) with one of four patterns. Others take and give token ids.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.text.byte_level import to_bytes

NONE = 2**32 - 1
NORMAL, SPECIAL, BYTE = 0, 1, 2  # as in c/tokenizer.h
SENTENCEPIECE, BYTE_LEVEL = 1, 2
# GGUF's name of a pre-tokenizer → the pattern's number in c/tokenizer.h, and whether a word that is a token is taken whole.
WORDS = {"gpt-2": (0, 0), "smollm": (1, 0), "starcoder": (1, 0), "llama-bpe": (2, 1), "llama3": (2, 1), "glm4": (2, 0), "qwen2": (3, 0)}


@dataclass(frozen=True)
class Vocabulary:
    constants: Mapping[str, int]
    data: bytes


def from_gguf(metadata: Mapping[str, Any]) -> Vocabulary | str:
    """The vocabulary of a GGUF file; or, for a kind that the program lacks, what kind it is."""
    model = metadata.get("tokenizer.ggml.model")
    tokens = [str(token) for token in metadata.get("tokenizer.ggml.tokens", ())]
    types = [int(kind) for kind in metadata.get("tokenizer.ggml.token_type", ())] or [1] * len(tokens)
    bos = int(metadata.get("tokenizer.ggml.bos_token_id", 1 if model == "llama" else NONE))
    named: dict[str, int] = {"UNKNOWN_ID": int(metadata.get("tokenizer.ggml.unknown_token_id", 0))}
    named["BOS_ID"] = bos if metadata.get("tokenizer.ggml.add_bos_token", model == "llama") else NONE
    special = [kind in (2, 3, 4) for kind in types]  # unknown, control, user-defined
    if model == "llama":
        kinds = [SPECIAL if is_special else BYTE if kind == 6 else NORMAL for is_special, kind in zip(special, types, strict=True)]
        scores = [float(score) for score in metadata["tokenizer.ggml.scores"]]
        named["SPACE_FIRST"] = int(bool(metadata.get("tokenizer.ggml.add_space_prefix", True)))
        byte_ids = {int(token[1:-1], 16): i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == BYTE}
        return _make(SENTENCEPIECE, [token.encode() for token in tokens], kinds, scores, byte_ids, [], named)
    if model == "gpt2" and metadata.get("tokenizer.ggml.pre") in WORDS:
        named["WORDS"], named["IGNORE_MERGES"] = WORDS[metadata["tokenizer.ggml.pre"]]
        raw = [token.encode() if is_special else to_bytes(token) for token, is_special in zip(tokens, special, strict=True)]
        ids = {token: i for i, token in enumerate(tokens)}
        merges = []
        for rank, merge in enumerate(metadata["tokenizer.ggml.merges"]):
            left, right = str(merge)[:1] + str(merge)[1:].partition(" ")[0], str(merge)[1:].partition(" ")[2]
            if left in ids and right in ids and left + right in ids:
                merges.append((ids[left], ids[right], rank, ids[left + right]))
        byte_ids = {text[0]: i for i, text in enumerate(raw) if len(text) == 1 and not special[i]}
        return _make(BYTE_LEVEL, raw, [SPECIAL if s else NORMAL for s in special], [0.0] * len(raw), byte_ids, merges, named)
    return str(metadata.get("tokenizer.ggml.pre") or model or "none")


def from_llama2c(tokens: list[tuple[bytes, float]]) -> Vocabulary:
    """llama2.c's tok*.bin: SentencePiece pieces with their scores; <unk>, <s>, </s>, then 256 bytes."""
    texts = [text.replace(b" ", b"\xe2\x96\x81") for text, _ in tokens]
    kinds = [SPECIAL] * 3 + [BYTE] * 256 + [NORMAL] * (len(tokens) - 259)
    named = {"UNKNOWN_ID": 0, "BOS_ID": 1, "SPACE_FIRST": 1}
    return _make(SENTENCEPIECE, texts, kinds, [score for _, score in tokens], {i: i + 3 for i in range(256)}, [], named)


def _make(
    kind: int, texts: list[bytes], kinds: list[int], scores: list[float], byte_ids: Mapping[int, int], merges: list, named: Mapping[str, int]
) -> Vocabulary:
    letters, digits = _ranges("L"), _ranges("N")
    starts = np.cumsum([0, *map(len, texts)]).astype(np.uint32)
    order = np.array(sorted(range(len(texts)), key=lambda i: (texts[i], i)), np.uint32)
    parts = (
        starts,
        order,
        np.array(scores, np.float32),
        np.array([byte_ids.get(byte, NONE) for byte in range(256)], np.uint32),
        np.array(sorted(merges), np.uint32),
        letters,
        digits,
        np.array(kinds, np.uint8),
    )
    constants = {"TOKENIZER": kind, "VOCAB_TOKENS": len(texts), "NUM_MERGES": len(merges), "TEXT_BYTES": int(starts[-1])}
    constants |= {"NUM_LETTER_RANGES": len(letters), "NUM_DIGIT_RANGES": len(digits)}
    constants |= {"WORDS": 0, "IGNORE_MERGES": 0, "SPACE_FIRST": 0, **named}
    return Vocabulary(constants, b"".join(part.tobytes() for part in parts) + b"".join(texts))


def _ranges(category: str) -> np.ndarray:
    """The code points of a general category (its first letter), as (first, last) pairs."""
    has = np.fromiter((unicodedata.category(chr(code))[0] == category for code in range(sys.maxunicode + 1)), bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], has, [False]]).astype(np.int8)))
    return np.stack([edges[::2], edges[1::2] - 1], 1).astype(np.uint32)


def constants_of(vocabulary: Vocabulary | None, offset: int, ends: Iterable[int]) -> str:
    """The lines of C that describe the vocabulary."""
    found = dict(vocabulary.constants) if vocabulary else {"TOKENIZER": 0}
    lines = [f"#define {name} {value}{'u' if value > 2**31 else ''}" for name, value in found.items()]
    return "\n".join([*lines, f"#define TOKENIZER_OFFSET ((size_t){offset})", f"#define END_IDS {''.join(f'{int(end)}, ' for end in ends)}"])
