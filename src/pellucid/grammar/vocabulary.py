"""A tokenizer as llguidance reads one: the bytes of every token, and how a text that must come is cut into tokens."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import UnsupportedError
from pellucid.text.backend import Backend

if TYPE_CHECKING:
    import llguidance

AHEAD = "\n"  # stands before a text that is cut, so that no tokenizer takes it for the beginning of one


class Vocabulary:
    """The tokens of one tokenizer, ids from 0 to ``size`` − 1, of which a model's logits have as many columns.

    A token's bytes are what it adds to the answer's text. Tokens that decoding skips add none: a grammar names them by
    id (``<[5]>``), and nothing else allows them. Where a grammar leaves but one text, only the tokens of which the
    tokenizer itself would make it are allowed, as the model has seen it in training.
    """

    def __init__(self, tokenizer: Backend, size: int) -> None:
        table = tokenizer.token_bytes()[:size]
        # What ends an answer is the request's business (``matcher``). llguidance wants an end token; it gets one of its
        # own, beyond the model's columns, for any of the tokenizer's may be a tag inside an answer.
        self.size, self.end = size, size
        self.tokens = [*table, *[b""] * (size - len(table)), b"<end>"]
        self.special_ids = frozenset({self.end, *(token for token in tokenizer.special_ids if token < size)})
        self._tokenizer = weakref.ref(tokenizer)
        ordinary = [(token, i) for i, token in enumerate(self.tokens) if token and i not in self.special_ids]
        self._ids: dict[bytes, int] = {}
        for token, token_id in ordinary:
            self._ids.setdefault(token, token_id)
        # Beyond the model's columns: bytes that no token writes alone, so that every text can be cut, never chosen.
        lacking = [one for byte in range(256) if (one := bytes([byte])) not in self._ids]
        self._bytes = {byte: len(self.tokens) + place for place, byte in enumerate(lacking)}
        self.tokens += lacking
        self._beginnings = {token[:end] for token, _ in ordinary for end in range(1, len(token))} if lacking else set()
        self._length = max(map(len, self._ids), default=0)
        self.library = _library_tokenizer(self)
        self.lock = threading.Lock()
        self.constraints: dict[Any, Any] = {}  # made over this vocabulary (``matcher``), the least recently used first

    def cut(self, data: bytes) -> list[int]:
        """The ids whose bytes joined are ``data``: the tokenizer's own where it has such, else the longest that fit."""
        tokenizer = self._tokenizer()
        if tokenizer is not None:
            for before in ("", AHEAD):
                ids = self._own(tokenizer, before, data)
                if ids is not None:
                    return ids
        return self._longest(data)

    def _longest(self, data: bytes) -> list[int]:
        """Greedily; where a byte has no token of its own that may lead nowhere, so every way is followed."""
        last: dict[int, tuple[int, int]] = {}  # place in data → (where its last token begins, the token)
        reached, places = {0}, [0]
        for place in places:  # which grows
            for end in range(min(place + self._length, len(data)), place, -1):
                if end not in reached and (token := self._ids.get(data[place:end])) is not None:
                    last[end] = place, token
                    reached.add(end)
                    places.append(end)
                    if not self._bytes:
                        break
        ending = (end for end in sorted(reached, reverse=True) if end == len(data) or data[end:] in self._beginnings)
        end = next(ending, 0)
        ids = [self._bytes.get(bytes([byte]), self._ids.get(bytes([byte]), 0)) for byte in reversed(data[end:])]
        while end:
            end, token = last[end]
            ids.append(token)
        return ids[::-1]

    def _own(self, tokenizer: Backend, before: str, data: bytes) -> list[int] | None:
        """As the tokenizer cuts the text after ``before``; None where that is not the text, or the cut is elsewhere."""
        try:
            text = before + data.decode("utf-8")
            ids = tokenizer.encode_texts([text], None, add_special_tokens=False, details=False)[0].ids
        except Exception:
            return None
        if any(token >= self.size or token in self.special_ids for token in ids):
            return None
        spelled = [self.tokens[token] for token in ids]
        if not before:
            return ids if b"".join(spelled) == data else None
        for place, length in enumerate(accumulate(map(len, spelled)), 1):
            if length >= len(before):
                return ids[place:] if b"".join(spelled[place:]) == data else None
        return None


def _library_tokenizer(vocabulary: Vocabulary) -> llguidance.LLTokenizer:
    llguidance = library()
    alive = weakref.ref(vocabulary)  # the library's object is the vocabulary's own; a circle would never be freed

    class Wrapped:
        """What ``TokenizerWrapper`` asks of a tokenizer."""

        eos_token_id, bos_token_id = vocabulary.end, None
        tokens: Sequence[bytes] = vocabulary.tokens
        special_token_ids = sorted(vocabulary.special_ids)

        def __call__(self, text: bytes | str) -> list[int]:
            owner = alive()
            return [] if owner is None else owner.cut(text if isinstance(text, bytes) else text.encode("utf-8"))

    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(Wrapped()), n_vocab=len(vocabulary.tokens))


def library() -> Any:
    """llguidance, imported when it is first needed. Raises: UnsupportedError where it is not installed."""
    try:
        import llguidance
    except ImportError:
        raise UnsupportedError(
            "schemas, grammars and constrained tool calls need llguidance", remedy="pip install llguidance"
        ) from None
    return llguidance


_kept: weakref.WeakKeyDictionary[Backend, dict[tuple[int, int], Vocabulary]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def vocabulary_of(tokenizer: Backend, size: int) -> Vocabulary:
    """The vocabulary for a model with ``size`` logits, made once for a tokenizer: 150,000 tokens take seconds.

    Raises: UnsupportedError where tokens have no bytes of their own, or llguidance is not installed.
    """
    with _lock:
        kept = _kept.setdefault(tokenizer, {})
        key = (size, len(tokenizer))  # a tokenizer may get further tokens
        if key not in kept:
            kept[key] = Vocabulary(tokenizer, size)
        return kept[key]
