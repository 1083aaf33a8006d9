"""Ids to text, one at a time: only whole characters, in constant time a token, and together exactly ``decode``'s text.

Decoding the whole list again for each token would cost quadratic time; decoding each token alone splits characters over
bytes (``"你"`` is often three tokens), loses the spaces that a piece's place decides, and cannot clean up. So each
backend describes its decoding as a ``TextStream``, a small machine with a bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from pellucid.base.errors import TokenizerError
from pellucid.text.cleanup import StreamingCleanUp

if TYPE_CHECKING:
    from pellucid.text.tokenizer import Tokenizer


class TextStream(Protocol):
    """A decoder that takes one id at a time."""

    def push(self, token_id: int) -> str:
        """The text that is now certain."""
        ...

    def flush(self) -> str:
        """The text still held back, now that no more comes."""
        ...


class IncrementalDetokenizer:
    """The text of an answer while it is generated.

    ``prompt_ids`` come before the answer: their own text is not returned, but a piece that follows them keeps its
    leading space, which it would lose at the beginning of a text. An id at or above ``len(tokenizer)`` has no text: a
    model's output layer is often padded beyond its vocabulary.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True, prompt_ids: Iterable[int] = ()) -> None:
        self._stream = tokenizer.text_stream(skip_special_tokens)
        self._clean_up = StreamingCleanUp() if tokenizer.wants_clean_up() else None
        for token_id in prompt_ids:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """The new text, complete characters only; ``""`` while a character is unfinished.

        Raises: TokenizerError for a negative id.
        """
        if token_id < 0:
            raise TokenizerError("no token has this id", expected="0 or more", received=token_id)
        text = self._stream.push(token_id)
        return text if self._clean_up is None else self._clean_up.push(text)

    def flush(self) -> str:
        """The rest, an unfinished character as U+FFFD, as ``decode`` writes it. Call it once, at the end."""
        text = self._stream.flush()
        return text if self._clean_up is None else self._clean_up.push(text) + self._clean_up.flush()
