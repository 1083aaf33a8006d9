"""Ids to text, one at a time: only whole characters, in constant time a token, and together exactly ``decode``'s text.

Decoding the whole list again for each token would cost quadratic time; decoding each token alone splits characters over
bytes (``"你"`` is often three tokens), loses the spaces that a piece's place decides, and cannot clean up. So each
backend describes its decoding as a ``TextStream``, a small machine with a bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pellucid.text.backend import Backend, check_ids
from pellucid.text.cleanup import StreamingCleanUp


class Run(NamedTuple):
    """Text of an answer in order: ``shown`` to the reader, or the text of a special token that decoding skips."""

    text: str
    shown: bool


class IncrementalDetokenizer:
    """The text of an answer while it is generated.

    ``prompt_ids`` come before the answer: their own text is not returned, but a piece that follows them keeps its
    leading space, which it would lose at the beginning of a text. An id at or above ``len(tokenizer)`` has no text: a
    model's output layer is often padded beyond its vocabulary.

    ``push`` gives what the reader sees. Who looks for a text in which special tokens count (a stop string
    ``"<|user|>"``, or ``"Bye<|user|>"``) takes ``push_runs`` instead, always, and joins the runs: special tokens stand
    in them where the model wrote them, marked as not shown, and each is one run, so that a match can be held to take
    it whole.
    """

    def __init__(self, tokenizer: Backend, skip_special_tokens: bool = True, prompt_ids: Iterable[int] = ()) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._stream = tokenizer.text_stream(skip_special_tokens)
        self._clean_up = StreamingCleanUp() if tokenizer.wants_clean_up() else None
        for token_id in prompt_ids:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """The new text, complete characters only; ``""`` while a character is unfinished.

        Raises: TokenizerError for what cannot be an id.
        """
        return self._cleaned(self._stream.push(*check_ids((token_id,))))

    def push_runs(self, token_id: int) -> list[Run]:
        """The new text as runs, special tokens that decoding skips among them; ``[]`` while a character is unfinished.

        The shown runs joined are ``push``'s text, but for bytes that are a character only across a special token. With
        ``skip_special_tokens=False`` every run is shown, special tokens too.
        """
        skipped = self._tokenizer.skipped_text(token_id) if self.skips(token_id) else None
        if skipped is None:
            text = self.push(token_id)
            return [Run(text, True)] if text else []
        before = self._cleaned(self._stream.pause())
        after = self.push(token_id)  # a backend may remember that it was there
        runs = (Run(before, True), Run(skipped, False), Run(after, True))
        return [run for run in runs if run.text]

    def skips(self, token_id: int) -> bool:
        """Whether this is a special token that decoding skips."""
        return self._skip and token_id >= 0 and self._tokenizer.skipped_text(token_id) is not None

    def flush(self) -> str:
        """The rest, an unfinished character as U+FFFD, as ``decode`` writes it. Call it once, at the end."""
        text = self._stream.flush()
        return text if self._clean_up is None else self._clean_up.push(text) + self._clean_up.flush()

    def _cleaned(self, text: str) -> str:
        return text if self._clean_up is None else self._clean_up.push(text)
