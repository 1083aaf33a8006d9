"""A grammar kept to token by token: what a request's ``constraint`` is, and each of its answers' matcher."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from pellucid.base.errors import RequestError
from pellucid.grammar.source import Grammar, refuse
from pellucid.grammar.vocabulary import Vocabulary, library, vocabulary_of
from pellucid.text.backend import Backend

WORTH_A_THREAD = 1e-3  # seconds
KEPT = 16  # grammars of a vocabulary that are ready: an agent sends the same tools with every turn


class GrammarMatcher:
    """One answer's way through a grammar.

    The next mask is computed in a thread from ``accept`` on, while the model computes the next logits, and ``mask``
    waits for it; where the last one took less than ``WORTH_A_THREAD``, when it is asked for: there a thread would cost
    the model, whose own threads have all cores, more than it saves.
    """

    def __init__(self, matcher: Any, vocabulary: Vocabulary, size: int, ends: Collection[int]) -> None:
        self._matcher, self._vocabulary, self._size = matcher, vocabulary, size
        self._ends = np.array(sorted(end for end in ends if 0 <= end < size), np.int64)
        self._end_ids = frozenset(self._ends.tolist())
        self._ended = False
        self._seconds = 0.0  # that the last mask took
        self._next: Future[np.ndarray] | None = _threads().submit(self._compute)
        self._mask: np.ndarray | None = None

    def mask(self) -> np.ndarray:
        """Which tokens may come next, bool, (V,); end tokens exactly where the grammar is complete.

        Raises: RequestError where the grammar is too complex to go on, or the vocabulary has no token that could.
        """
        if self._mask is None:
            self._mask = self._compute() if self._next is None else self._next.result()
        return self._mask

    def accept(self, token_id: int) -> None:
        """The answer continues with it. Raises: RequestError where the grammar does not allow it."""
        self._wait()
        if token_id in self._end_ids:
            self._ended = True
            return
        if self._ended or not self._matcher.consume_token(token_id):
            why = "the answer has ended" if self._ended else self._matcher.get_error()
            raise RequestError("the grammar does not allow this token", received=f"{token_id}: {why}"[:300])
        self._mask = None
        self._next = _threads().submit(self._compute) if self._seconds > WORTH_A_THREAD else None

    def valid_prefix(self, token_ids: Sequence[int]) -> int:
        """How many of these the grammar would allow, one after the other, up to an end token."""
        self._wait()
        if self._ended:
            return 0
        text = next((place for place, token in enumerate(token_ids) if token in self._end_ids), len(token_ids))
        size = len(self._vocabulary.tokens)
        text = next((place for place, token in enumerate(token_ids[:text]) if not 0 <= token < size), text)
        return self._matcher.validate_tokens(list(token_ids[:text])) if text else 0

    @property
    def finished(self) -> bool:
        """Whether only an end token may follow."""
        self._wait()
        return self._ended or (self._matcher.is_stopped() and not self._matcher.is_error())

    def _wait(self) -> None:
        """The matcher is one thread's at a time."""
        if self._next is not None:
            self._next.exception()

    def _compute(self) -> np.ndarray:
        begun = time.perf_counter()
        try:
            return self._allowed()
        finally:
            self._seconds = time.perf_counter() - begun

    def _allowed(self) -> np.ndarray:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            said = self._matcher.get_error()
            if said.startswith("NoExtension"):
                raise _no_token()
            raise RequestError(f"the grammar cannot go on: {said[:300]}")
        mask = np.unpackbits(bits, count=self._size, bitorder="little").view(bool)
        accepting = self._matcher.is_accepting()
        mask[self._ends] = accepting
        if not accepting and not mask.any():
            raise _no_token()
        return mask


def _no_token() -> RequestError:
    return RequestError(
        "no token of this vocabulary can go on as the grammar asks",
        remedy="the text that must come has characters that the tokenizer cannot write",
    )


class GrammarConstraint:
    """A grammar over one tokenizer: ``start`` gives each answer its own matcher."""

    def __init__(self, grammar: Grammar, vocabulary: Vocabulary, size: int, ends: Collection[int]) -> None:
        self.grammar = grammar
        self._vocabulary, self._size, self._ends = vocabulary, size, frozenset(ends)
        limits = library().LLParserLimits(verbose_errors=False)
        self._first = library().LLMatcher(vocabulary.library, grammar.text, log_level=0, limits=limits)
        if self._first.is_error():
            refuse(grammar, self._first.get_error())
        self._lock = threading.Lock()

    def start(self) -> GrammarMatcher:
        with self._lock:
            matcher = self._first.deep_copy()
        return GrammarMatcher(matcher, self._vocabulary, self._size, self._ends)


def constrain(
    grammar: Grammar, tokenizer: Backend, vocab_size: int, stop_token_ids: Collection[int]
) -> GrammarConstraint:
    """What holds a request's answers to a grammar. ``vocab_size``: columns of the model's logits, which may be more
    than the tokenizer has tokens. ``stop_token_ids``: those of the request; they end an answer only where the grammar
    is complete.

    Raises: RequestError where llguidance refuses the grammar, UnsupportedError for a tokenizer without token bytes.
    """
    vocabulary = vocabulary_of(tokenizer, vocab_size)
    key = (grammar.text, frozenset(stop_token_ids))
    with vocabulary.lock:
        if (kept := vocabulary.constraints.pop(key, None)) is not None:
            vocabulary.constraints[key] = kept
            return kept
    made = GrammarConstraint(grammar, vocabulary, vocab_size, stop_token_ids)
    with vocabulary.lock:
        vocabulary.constraints[key] = made
        while len(vocabulary.constraints) > KEPT:
            vocabulary.constraints.pop(next(iter(vocabulary.constraints)))
    return made


_pool: list[ThreadPoolExecutor] = []
_making = threading.Lock()


def _threads() -> ThreadPoolExecutor:
    with _making:
        if not _pool:
            _pool.append(ThreadPoolExecutor(min(os.cpu_count() or 1, 8), thread_name_prefix="pellucid-grammar"))
        return _pool[0]
