"""A tokenizer's vocabulary for the two-files program: the bytes that stand behind the weights, and the constants that say what they are.

Two kinds are known: SentencePiece (scores), and byte-level BPE (merges) with one of four patterns. Others take and give token ids.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.text.byte_level import to_bytes
from pellucid.text.pre_tokenizers import PRE_TOKENIZERS

NONE = 2**32 - 1
NORMAL, SPECIAL, BYTE = 0, 1, 2  # as in c/tokenizer.h
SENTENCEPIECE, BYTE_LEVEL = 1, 2
# A pre-tokenizer's name → its pattern's number in c/tokenizer.h.
WORDS = {"gpt-2": 0, "smollm": 1, "starcoder": 1, "llama-bpe": 2, "llama3": 2, "glm4": 2, "qwen2": 3}


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
        pre = PRE_TOKENIZERS[metadata["tokenizer.ggml.pre"]]
        named |= {"WORDS": WORDS[metadata["tokenizer.ggml.pre"]], "IGNORE_MERGES": int(pre.ignore_merges)}
        merges = [(merge[: merge.index(" ", 1)], merge[merge.index(" ", 1) + 1 :]) for merge in map(str, metadata["tokenizer.ggml.merges"])]
        return _byte_level(tokens, special, merges, named, nfc=pre.nfc)
    return str(metadata.get("tokenizer.ggml.pre") or model or "none")


def from_tokenizer_json(file: Mapping[str, Any], config: Mapping[str, Any]) -> Vocabulary | str:
    """The vocabulary of a tokenizer.json (byte-level BPE), told as a GGUF file would; or what kind it is.

    ``config``: tokenizer_config.json's.
    """
    model, splits = file.get("model") or {}, list(_splits(file.get("pre_tokenizer")))
    patterns = tuple(pattern for pattern in splits if pattern)
    name = next((name for name in WORDS if PRE_TOKENIZERS[name].patterns == patterns), None)
    normalizer = (file.get("normalizer") or {}).get("type")
    if model.get("type") != "BPE" or None in splits or name is None or normalizer not in (None, "NFC"):
        return str(model.get("type") or "none")
    tokens = {int(place): str(token) for token, place in model["vocab"].items()}
    added = {int(token["id"]): str(token["content"]) for token in file.get("added_tokens", ())}
    size = max(max(tokens), max(added, default=0)) + 1
    bos = config.get("bos_token")
    bos_text = bos.get("content") if isinstance(bos, Mapping) else bos
    texts = tokens | added
    ids = {text: place for place, text in texts.items()}
    return _byte_level(
        [texts.get(place, "") for place in range(size)],
        [place in added or place not in tokens for place in range(size)],
        [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]],
        {
            "WORDS": WORDS[name],
            "IGNORE_MERGES": int(bool(model.get("ignore_merges"))),
            "UNKNOWN_ID": 0,
            "BOS_ID": ids[bos_text] if config.get("add_bos_token") and bos_text in ids else NONE,
        },
        nfc=normalizer == "NFC",
    )


def _splits(node: Any) -> Iterator[str | None]:
    """The patterns of a pre-tokenizer, in order; "" for bytes alone, None for what is unknown."""
    kind = (node or {}).get("type")
    if kind == "Sequence":
        for part in node["pretokenizers"]:
            yield from _splits(part)
    elif kind == "ByteLevel" and not node.get("add_prefix_space"):
        yield PRE_TOKENIZERS["gpt-2"].patterns[0] if node.get("use_regex", True) else ""
    elif kind == "Digits" and node.get("individual_digits"):
        yield r"\p{N}"
    elif kind == "Split" and node.get("behavior") == "Isolated" and not node.get("invert"):
        yield (node.get("pattern") or {}).get("Regex")
    else:
        yield None


def from_llama2c(tokens: list[tuple[bytes, float]]) -> Vocabulary:
    """llama2.c's tok*.bin: SentencePiece pieces with their scores; <unk>, <s>, </s>, then 256 bytes."""
    texts = [text.replace(b" ", b"\xe2\x96\x81") for text, _ in tokens]
    kinds = [SPECIAL] * 3 + [BYTE] * 256 + [NORMAL] * (len(tokens) - 259)
    named = {"UNKNOWN_ID": 0, "BOS_ID": 1, "SPACE_FIRST": 1}
    return _make(SENTENCEPIECE, texts, kinds, [score for _, score in tokens], {i: i + 3 for i in range(256)}, [], named)


def _byte_level(tokens: list[str], special: list[bool], merges: Iterable[tuple[str, ...]], named: Mapping[str, int], *, nfc: bool) -> Vocabulary:
    raw = [token.encode() if is_special else to_bytes(token) for token, is_special in zip(tokens, special, strict=True)]
    ids = {token: place for place, token in enumerate(tokens)}
    ranked = [(ids[a], ids[b], rank, ids[a + b]) for rank, (a, b) in enumerate(merges) if a in ids and b in ids and a + b in ids]
    byte_ids = {text[0]: place for place, text in enumerate(raw) if len(text) == 1 and not special[place]}
    kinds = [SPECIAL if is_special else NORMAL for is_special in special]
    return _make(BYTE_LEVEL, raw, kinds, [0.0] * len(raw), byte_ids, ranked, named, nfc=nfc)


def _make(
    kind: int,
    texts: list[bytes],
    kinds: list[int],
    scores: list[float],
    byte_ids: Mapping[int, int],
    merges: list,
    named: Mapping[str, int],
    *,
    nfc: bool = False,
) -> Vocabulary:
    letters, digits = _ranges(lambda c: unicodedata.category(c)[0] == "L"), _ranges(lambda c: unicodedata.category(c)[0] == "N")
    composing = _ranges(_may_compose) if nfc else np.zeros((0, 2), np.uint32)
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
        composing,
        np.array(kinds, np.uint8),
    )
    constants = {"TOKENIZER": kind, "VOCAB_TOKENS": len(texts), "NUM_MERGES": len(merges), "TEXT_BYTES": int(starts[-1])}
    constants |= {"NUM_LETTER_RANGES": len(letters), "NUM_DIGIT_RANGES": len(digits), "NUM_COMPOSING_RANGES": len(composing)}
    constants |= {"WORDS": 0, "IGNORE_MERGES": 0, "SPACE_FIRST": 0, **named}
    return Vocabulary(constants, b"".join(part.tobytes() for part in parts) + b"".join(texts))


def _may_compose(character: str) -> bool:
    """Whether normalization to NFC may change a text that holds it."""
    jamo = "\u1161" <= character <= "\u1175" or "\u11a8" <= character <= "\u11c2"
    return jamo or unicodedata.combining(character) > 0 or not unicodedata.is_normalized("NFC", character)


def _ranges(belongs: Callable[[str], bool]) -> np.ndarray:
    """The code points that belong, as (first, last) pairs."""
    has = np.fromiter((belongs(chr(code)) for code in range(sys.maxunicode + 1)), bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], has, [False]]).astype(np.int8)))
    return np.stack([edges[::2], edges[1::2] - 1], 1).astype(np.uint32)


def constants_of(vocabulary: Vocabulary | None, offset: int, ends: Iterable[int]) -> str:
    """The lines of C that describe the vocabulary."""
    found = dict(vocabulary.constants) if vocabulary else {"TOKENIZER": 0}
    lines = [f"#define {name} {value}{'u' if value > 2**31 else ''}" for name, value in found.items()]
    return "\n".join([*lines, f"#define TOKENIZER_OFFSET ((size_t){offset})", f"#define END_IDS {''.join(f'{int(end)}, ' for end in ends)}"])
