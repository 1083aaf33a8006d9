"""A faster library for whole corpora, where it is proven to give the same ids.

``tokenizers`` encodes some 2 MB/s, `fastokens` (Apache-2.0) some 40 to 100 on the same two cores, from the same
tokenizer.json. It is taken for a tokenizer only after both gave the same ids for a probe: strings that tokenizers are
known to differ on, every kind of character, and the vocabulary's own tokens joined at random. Of every further batch a
sample is encoded by both again. What differs, or what the library refuses, is left to ``tokenizers``.

The library is quickest with one expression that splits a text. Where a tokenizer cuts out digits before GPT-2's
expression splits the rest (SmolLM, StarCoder), it gets the one expression that does both. There it refuses bytes that
no token has, which ``tokenizers`` drops: texts with such bytes are left to ``tokenizers``, one by one.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pellucid.text.readers.byte_level import CHAR_OF_BYTE

if TYPE_CHECKING:
    import tokenizers

WORTH_IT = 2**23  # characters of a corpus; the proof takes as long as some MB do
_STRETCHES, _STRETCH = 8, 512  # of a batch, in characters, that both encode
_TRICKY = (
    "", " ", "  ", "\n", "\r\n", "\t", " \n \n", "a\n\n\n  b   \n c\n", "   leading", "trailing   ", "x" * 99,
    " " * 99, "don't I'LL y'All it'S 's", "HELLOWorld fooBar ǅungla ÀÉîÕ", "1 12 123 1234 1234567.89 ١٢٣ Ⅷ½ ²",
    "e\u0301a\u0308 é", "漢字かなカナ한국어ㄱㄴ 你好，世界！", "　全角　ＡＢＣ１２３", "हिन्दी ภาษาไทย עברית عربي",
    "👩\u200d👩\u200d👧 😀🏳️\u200d🌈", "…—“q” ©®™ #$%&/=?¡¿!! ``` === ---", "foo(bar)\n\tbaz();\r\n", "a/b//c\n/\n d",
    "\u200b\u00ad\ufeff\u0000\u0007\x7f", "\u00a0\u2003\u3000\u2028\u2029\u0085", "<|endoftext|> <s>",
    "ﬁ ﬀ ſ \u212b \u2126 가", "'\u017f \u212a ı İ",
)  # fmt: skip
_AROUND = (("a", "b"), (" ", "1"), ("\n", "'"))


# GPT-2's, where each digit is a piece of its own: white space before one stays whole, as at a text's end
_SINGLE_DIGITS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"


class DifferentIdsError(Exception):
    """The fast library gave other ids than ``tokenizers``: nothing of what it encoded can be kept."""


class FastEncoder:
    """``encode`` as ``tokenizers`` would without special tokens added, some thirty times as fast."""

    def __init__(self, backend: tokenizers.Tokenizer, fast: object, unknown: bytes = b"") -> None:
        self._backend, self._fast, self._unknown = backend, fast, unknown

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of the texts end to end, and where each begins and the last one ends.

        Raises: DifferentIdsError where a sample of them is encoded otherwise by ``tokenizers``.
        """
        try:
            if self.agrees(_sample(texts)):
                return self._flat(texts)
        except Exception:  # what it cannot encode, a lone surrogate, `tokenizers` says better
            pass
        raise DifferentIdsError

    def agrees(self, texts: Sequence[str]) -> bool:
        """Whether both libraries give the texts the same ids."""
        ids, starts = self._flat(texts)
        return all(
            ids[starts[place] : starts[place + 1]].tolist() == expected
            for place, expected in enumerate(_plain(self._backend, texts))
        )

    def _flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids end to end and where each text's begin: of texts with a byte that no token has, `tokenizers`'."""
        strange = {place for place, text in enumerate(texts) if self._unknown and self._has_unknown(text)}
        if not strange:
            return _flat(self._fast, texts)
        ids, starts = _flat(self._fast, ["" if place in strange else text for place, text in enumerate(texts)])
        parts = [ids[start:end] for start, end in itertools.pairwise(starts)]
        plain = _plain(self._backend, [texts[place] for place in sorted(strange)])
        for place, one in zip(sorted(strange), plain, strict=True):
            parts[place] = np.asarray(one, ids.dtype)
        return np.concatenate(parts), np.cumsum([0, *map(len, parts)])

    def _has_unknown(self, text: str) -> bool:
        data = text.encode()
        return len(data.translate(None, self._unknown)) < len(data)


def fast_encoder(backend: tokenizers.Tokenizer) -> FastEncoder | None:
    """The encoder, or None where the library is not installed, refuses this tokenizer, or gives other ids."""
    if backend.truncation is not None or backend.padding is not None:
        return None
    try:
        import fastokens

        probe, document = probe_of(backend), json.loads(backend.to_str())
        for asked, unknown in (*_rewritten(document), (document, b"")):
            fast = fastokens.Tokenizer.from_json_str(json.dumps(asked, ensure_ascii=False))
            if (encoder := FastEncoder(backend, fast, unknown)).agrees(probe):
                return encoder
        return None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # not installed, not supported; a panic of the library is no Exception
        return None


def _rewritten(document: dict) -> list[tuple[dict, bytes]]:
    """The same tokenizer with one expression in place of two steps, and the bytes that no token of it has."""
    match document.get("pre_tokenizer"):
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True}
                | {"type": "Split", "pattern": {"Regex": r"\p{N}"}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "use_regex": True, "add_prefix_space": False} as bytes_step,
            ],
        }:
            split = {"type": "Split", "pattern": {"Regex": _SINGLE_DIGITS}, "behavior": "Isolated", "invert": False}
            steps = {"type": "Sequence", "pretokenizers": [split, {**bytes_step, "use_regex": False}]}
            vocab = document["model"]["vocab"]
            unknown = bytes(byte for byte, char in CHAR_OF_BYTE.items() if char not in vocab)
            return [({**document, "pre_tokenizer": steps}, unknown)]
    return []


def probe_of(backend: tokenizers.Tokenizer) -> list[str]:
    """Texts on which tokenizers differ if they do: the tricky ones, characters of every kind, tokens joined."""
    draw = random.Random(0)
    texts = list(_TRICKY)
    texts += [
        f"{before}{text}{after}" for text in _TRICKY[1:] for before, after in (("a", "b"), (" ", "1"), ("\n", "'"))
    ]
    kinds: dict[str, list[str]] = {}
    for code in range(0, sys.maxunicode + 1, 7):
        kinds.setdefault(unicodedata.category(chr(code)), []).append(chr(code))
    kinds.pop("Cs", None)
    common = [*"abcXYZ 019 \n\t.,'-_/", *"éÉñ漢字かカ한글हि\u0301"]
    for listed in kinds.values():
        texts += ["".join(draw.choice((draw.choice(listed), draw.choice(common))) for _ in range(24)) for _ in range(8)]
    texts += ["".join(draw.choice(common) for _ in range(draw.randrange(1, 40))) for _ in range(300)]
    tokens = backend.get_vocab(with_added_tokens=True)
    size = max(tokens.values(), default=0) + 1
    added = backend.get_added_tokens_decoder()
    for _ in range(400):
        drawn = [draw.randrange(size) for _ in range(12)]
        texts.append(backend.decode([token for token in drawn if token not in added], skip_special_tokens=False))
    for token in list(added.values())[:40]:
        texts += [f"a{token.content}b", f"a {token.content}  b", f"{token.content}{token.content}\n"]
    return texts


def _sample(texts: Sequence[str]) -> list[str]:
    """Stretches of some texts, evenly chosen."""
    chosen = texts[:: max(len(texts) // _STRETCHES, 1)]
    return [text[len(text) // 2 : len(text) // 2 + _STRETCH] for text in chosen]


def _flat(fast: object, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    ids, starts = fast.encode_batch_flat(list(texts), add_special_tokens=False)  # pyright: ignore
    starts = np.frombuffer(starts, np.uint64).astype(np.int64)
    return np.frombuffer(ids, np.uint32), starts


def _plain(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
