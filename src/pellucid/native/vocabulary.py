"""A tokenizer's vocabulary for the two-files program: the bytes that stand behind the weights, and the constants that
say what they are.

Three kinds are known: SentencePiece's byte-pair encoding and its unigram model, and byte-level byte-pair encoding with
one of six patterns. Others take and give token ids.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.base.errors import TokenizerError
from pellucid.text.readers.byte_level import to_bytes
from pellucid.text.readers.pre_tokenizers import PRE_TOKENIZERS
from pellucid.text.readers.sentencepiece_proto import BYTE, NORMAL, UNUSED, USER_DEFINED, read_model
from pellucid.text.tokenizer import Tokenizer

NONE = 2**32 - 1
NORMAL_TOKEN, SPECIAL_TOKEN, BYTE_TOKEN, SYMBOL_TOKEN, ADDED_TOKEN, HIDDEN_TOKEN = range(6)  # as in c/vocabulary.h
# Kind → its number there, and the files of the program that know it.
KINDS = {
    "bpe": (1, ("vocabulary.h", "joins.h", "pieces.h", "pieces_joined.h", "tokenizer.h")),
    "byte-level": (2, ("vocabulary.h", "joins.h", "words.h", "tokenizer.h")),
    "unigram": (3, ("vocabulary.h", "pieces.h", "pieces_unigram.h", "tokenizer.h")),
}
# Patterns that cut text into words → their number in c/words.h; a name stands for all that share its pattern.
WORDS = {
    PRE_TOKENIZERS[name].patterns: i
    for i, name in enumerate(("gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "gpt-4o"))
}


@dataclass(frozen=True)
class Vocabulary:
    constants: Mapping[str, int]
    data: bytes
    prefix: tuple[int, ...]  # ids that a text begins with
    files: tuple[str, ...]  # the part of the program that reads it


def of(tokenizer: Tokenizer) -> Vocabulary | str:
    """The vocabulary of a tokenizer; or, where the program has no such tokenizer, what kind it is."""
    from pellucid.text.readers.sentencepiece_model import SentencePieceTokenizer
    from pellucid.text.readers.tokenizer_json import JsonTokenizer

    ids, plain = tokenizer.encode("a"), tokenizer.encode("a", add_special_tokens=False)
    prefix = ids[: len(ids) - len(plain)]
    if ids != prefix + plain:
        return "one that ends a text with a token"
    if any(token.lstrip or token.rstrip or token.single_word for token in tokenizer.added_tokens_decoder.values()):
        return "one whose added tokens take in spaces"
    if isinstance(tokenizer, SentencePieceTokenizer):
        return _sentencepiece(tokenizer, tokenizer.serialized, tuple(prefix))
    return (
        _json(tokenizer.to_json(), tuple(prefix)) if isinstance(tokenizer, JsonTokenizer) else type(tokenizer).__name__
    )


def _sentencepiece(tokenizer: Tokenizer, serialized: bytes, prefix: tuple[int, ...]) -> Vocabulary | str:
    model = read_model(serialized)
    if (
        model.kind not in ("bpe", "unigram")
        or not model.escapes_spaces
        or model.space_last
        or any(kind == UNUSED for _, _, kind in model.pieces)
    ):
        return f"SentencePiece, {model.kind}"
    shown = {BYTE: BYTE_TOKEN, NORMAL: NORMAL_TOKEN, USER_DEFINED: SYMBOL_TOKEN}
    texts = [text for text, _, _ in model.pieces] + [b""] * (len(tokenizer) - len(model.pieces))
    kinds = [shown.get(kind, HIDDEN_TOKEN) for _, _, kind in model.pieces] + [HIDDEN_TOKEN] * (
        len(tokenizer) - len(model.pieces)
    )
    for place, token in tokenizer.added_tokens_decoder.items():
        recognized = tokenizer.encode(token.content, add_special_tokens=False) == [place]
        texts[place] = token.content.encode()
        kinds[place] = (
            HIDDEN_TOKEN if token.special and not recognized else SPECIAL_TOKEN if token.special else ADDED_TOKEN
        )
    byte_ids = {int(text[1:-1], 16): i for i, (text, _, kind) in enumerate(model.pieces) if kind == BYTE}
    named = {
        "UNKNOWN_ID": model.unknown_id,
        "SPACE_FIRST": model.adds_space * (1 if _adds_space_everywhere(tokenizer) else 2),
        "TRIM_SPACES": int(model.trims_spaces),
        "BYTE_FALLBACK": int(model.falls_back_to_bytes),
    }
    scores = [score for _, score, _ in model.pieces] + [0.0] * (len(texts) - len(model.pieces))
    trie, replacements = model.charsmap
    return _make(model.kind, texts, kinds, byte_ids, named, prefix, scores=scores, trie=trie, replacements=replacements)


def _adds_space_everywhere(tokenizer: Tokenizer) -> bool:
    """Whether each stretch of text between special tokens gets a space in front, not just the text's beginning."""
    for place, token in tokenizer.added_tokens_decoder.items():
        ids = tokenizer.encode(f"{token.content}a", add_special_tokens=False)
        if ids[0] == place:
            return ids[1:] == tokenizer.encode("a", add_special_tokens=False)
    return True


def _json(file: Mapping[str, Any], prefix: tuple[int, ...]) -> Vocabulary | str:
    """``file``: what tokenizer.json says."""
    model, splits = file.get("model") or {}, list(_splits(file.get("pre_tokenizer")))
    patterns = tuple(pattern for pattern in splits if pattern)
    normalizer = (file.get("normalizer") or {}).get("type")
    if model.get("type") != "BPE" or None in splits or patterns not in WORDS or normalizer not in (None, "NFC"):
        return str(model.get("type") or "none")
    tokens = {int(place): str(token) for token, place in model["vocab"].items()}
    added = {
        int(token["id"]): (str(token["content"]), bool(token.get("special"))) for token in file.get("added_tokens", ())
    }
    size = max(max(tokens), max(added, default=0)) + 1
    kinds, raw = [NORMAL_TOKEN if place in tokens else HIDDEN_TOKEN for place in range(size)], [b""] * size
    for place, token in tokens.items():
        raw[place] = to_bytes(token)
    for place, (text, special) in added.items():
        raw[place], kinds[place] = text.encode(), SPECIAL_TOKEN if special else ADDED_TOKEN
    ids = {token: place for place, token in tokens.items()}
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
    merges = [
        (ids[a], ids[b], rank, ids[a + b])
        for rank, (a, b) in enumerate(pairs)
        if a in ids and b in ids and a + b in ids
    ]
    byte_ids = {text[0]: place for place, text in enumerate(raw) if len(text) == 1 and kinds[place] == NORMAL_TOKEN}
    named = {"WORDS": WORDS[patterns], "IGNORE_MERGES": int(bool(model.get("ignore_merges")))}
    return _make("byte-level", raw, kinds, byte_ids, named, prefix, merges=merges, nfc=normalizer == "NFC")


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


def _make(
    kind: str,
    texts: Sequence[bytes],
    kinds: Sequence[int],
    byte_ids: Mapping[int, int],
    named: Mapping[str, int],
    prefix: tuple[int, ...],
    *,
    scores: Sequence[float] = (),
    merges: Sequence[tuple[int, int, int, int]] = (),
    nfc: bool = False,
    trie: np.ndarray | None = None,
    replacements: bytes = b"",
) -> Vocabulary:
    starts = np.cumsum([0, *map(len, texts)]).astype(np.uint32)
    order = sorted(range(len(texts)), key=lambda i: (texts[i], i))
    words = kind == "byte-level"
    trie = np.zeros(0, np.uint32) if trie is None else trie
    category = unicodedata.category
    ranges = {
        "LETTER": _ranges(lambda c: category(c)[0] == "L", words),
        "DIGIT": _ranges(lambda c: category(c)[0] == "N", words),
        "UPPER": _ranges(lambda c: category(c) in ("Lu", "Lt", "Lm", "Lo") or category(c)[0] == "M", words),
        "LOWER": _ranges(lambda c: category(c) in ("Ll", "Lm", "Lo") or category(c)[0] == "M", words),
        "COMPOSING": _ranges(_may_compose, nfc),
    }
    parts = (
        starts,
        np.array(order, np.uint32),
        np.array(scores or [0.0] * len(texts), np.float32),
        np.array([byte_ids.get(byte, NONE) for byte in range(256)], np.uint32),
        np.array(sorted(merges), np.uint32),
        *ranges.values(),
        trie,
    )
    number, files = KINDS[kind]
    constants = {
        "TOKENIZER": number,
        "VOCAB_TOKENS": len(texts),
        "NUM_MERGES": len(merges),
        "TEXT_BYTES": int(starts[-1]),
    }
    constants |= {f"NUM_{name}_RANGES": len(its) for name, its in ranges.items()}
    constants |= {
        "TRIE_UNITS": len(trie),
        "REPLACEMENT_BYTES": len(replacements),
        "NUM_SYMBOLS": sum(kind == SYMBOL_TOKEN for kind in kinds),
    }
    constants |= {
        "WORDS": 0,
        "IGNORE_MERGES": 0,
        "SPACE_FIRST": 0,
        "TRIM_SPACES": 0,
        "BYTE_FALLBACK": 0,
        "UNKNOWN_ID": 0,
        **named,
    }
    data = (
        b"".join(part.tobytes() for part in parts)
        + replacements
        + np.array(kinds, np.uint8).tobytes()
        + b"".join(texts)
    )
    for what, ids in (("unknown", [constants["UNKNOWN_ID"]]), ("first", prefix), ("byte", byte_ids.values())):
        if any(not 0 <= place < len(texts) for place in ids):
            raise TokenizerError(
                f"the id of a {what} token is out of range", expected=f"0 to {len(texts) - 1}", received=list(ids)[:8]
            )
    return Vocabulary(constants, data, prefix, files)


def _may_compose(character: str) -> bool:
    """Whether normalization to NFC may change a text that holds it."""
    jamo = "\u1161" <= character <= "\u1175" or "\u11a8" <= character <= "\u11c2"
    return jamo or unicodedata.combining(character) > 0 or not unicodedata.is_normalized("NFC", character)


def _ranges(belongs: Callable[[str], bool], needed: bool) -> np.ndarray:
    """The code points that belong, as (first, last) pairs; none where they are not needed."""
    if not needed:
        return np.zeros((0, 2), np.uint32)
    has = np.fromiter((belongs(chr(code)) for code in range(sys.maxunicode + 1)), bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], has, [False]]).astype(np.int8)))
    return np.stack([edges[::2], edges[1::2] - 1], 1).astype(np.uint32)


def constants_of(vocabulary: Vocabulary | None, offset: int, ends: Iterable[int]) -> str:
    """The lines of C that describe the vocabulary."""
    constants = dict(vocabulary.constants) if vocabulary else {"TOKENIZER": 0}
    lines = [f"#define {name} {int(value)}" for name, value in constants.items()]
    lists = {"PREFIX_IDS": vocabulary.prefix if vocabulary else (), "END_IDS": ends}
    lines += [f"#define {name} {''.join(f'{int(token)}, ' for token in ids)}" for name, ids in lists.items()]
    return "\n".join([*lines, f"#define TOKENIZER_OFFSET ((size_t){offset})"])
