"""``Reader``: one answer's events become what it says, thinks and calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pellucid.text.detokenizer import IncrementalDetokenizer
from pellucid.text.tools.deltas import Delta
from pellucid.text.tools.format import AnswerParser

if TYPE_CHECKING:
    from pellucid.generate.result import Event
    from pellucid.text.tokenizer import Tokenizer

BEFORE = 16  # tokens of the prompt that decide how the answer's first is written (whether it keeps its space)


class Reader:
    """A plain one tells the events' text. With a parser it reads a text in which special tokens stand
    (``Request.skip_special_tokens`` is False), for these are the tags of thoughts and calls.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt_ids: Sequence[int] = (), parser: AnswerParser | None = None
    ) -> None:
        self._tokenizer, self._before, self._parser = tokenizer, prompt_ids[-BEFORE:], parser
        self._tokens, self._thinks, self._after = 0, False, False
        self.reasoning_tokens = 0

    @property
    def called(self) -> bool:
        """Whether it has called a tool."""
        return self._parser is not None and self._parser.calls > 0

    def begin(self, token_ids: Sequence[int]) -> list[Delta]:
        """The answer begins with these tokens; a character that they leave unfinished comes with those that follow."""
        if not token_ids:
            return []
        detokenizer = IncrementalDetokenizer(self._tokenizer, self._parser is None, self._before)
        text = "".join(detokenizer.push(token) for token in token_ids)
        return _said(text) if self._parser is None else self._parser.push(text)

    def push(self, event: Event) -> list[Delta]:
        """What is new and certain."""
        if self._parser is None:
            return _said(event.text)
        deltas = self._parser.push(event.text)
        if event.answer is not None:
            deltas += self._parser.finish()
        self._count(event, deltas)
        return deltas

    def _count(self, event: Event, deltas: Sequence[Delta]) -> None:
        """Tokens of the thought: those before the first of what follows it."""
        self._tokens += event.token_id is not None
        self._thinks = self._thinks or any(delta.reasoning for delta in deltas)
        if self._after:
            return
        self._after = any(delta.content or delta.call for delta in deltas)
        if self._thinks:
            self.reasoning_tokens = self._tokens


def _said(text: str) -> list[Delta]:
    return [Delta(content=text)] if text else []
