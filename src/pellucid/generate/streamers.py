"""Streamers: text as it is generated, printed, or to be iterated over in another thread.

What is shown is final: a character whose bytes have not all come, and a word that a later token may change, wait.
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np


class TextStreamer:
    """Prints an answer as it comes. ``skip_prompt``: not the prompt; further keywords go to ``tokenizer.decode``."""

    def __init__(self, tokenizer: Any, skip_prompt: bool = False, **decode_kwargs: Any) -> None:
        self.tokenizer, self.skip_prompt, self.decode_kwargs = tokenizer, skip_prompt, decode_kwargs
        self._ids: list[int] = []
        self._shown = ""
        self._prompt = True

    def put(self, value: Any) -> None:
        """The prompt's ids, then each new one."""
        ids = np.asarray(value).flatten().tolist()
        if self._prompt and self.skip_prompt:
            self._prompt = False
            return
        self._prompt = False
        self._ids += ids
        text = self.tokenizer.decode(self._ids, **self.decode_kwargs)
        if text.startswith(self._shown) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
            self._show(text)

    def end(self) -> None:
        text = self.tokenizer.decode(self._ids, **self.decode_kwargs) if self._ids else ""
        self._show(text, stream_end=True)
        self._ids, self._shown, self._prompt = [], "", True

    def _show(self, text: str, stream_end: bool = False) -> None:
        new, self._shown = text[len(self._shown) :], text
        if new or stream_end:
            self.on_finalized_text(new, stream_end)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """What is done with text that is sure: here it is printed."""
        sys.stdout.write(text + ("\n" if stream_end else ""))
        sys.stdout.flush()


class TextIteratorStreamer(TextStreamer):
    """The same, to be iterated over while another thread generates. ``timeout``: seconds to wait for the next piece."""

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.timeout = timeout
        self._pieces: queue.Queue[str | None] = queue.Queue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._pieces.put(text)
        if stream_end:
            self._pieces.put(None)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = self._pieces.get(timeout=self.timeout)
        if piece is None:
            raise StopIteration
        return piece
