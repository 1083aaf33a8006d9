"""``Reader``: one answer's tokens become what it says, thinks and calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pellucid.generate.stop import StopStrings
from pellucid.text.detokenizer import IncrementalDetokenizer, Run
from pellucid.text.tools.deltas import Delta
from pellucid.text.tools.format import AnswerParser

if TYPE_CHECKING:
    from pellucid.generate.result import Event
    from pellucid.text.tokenizer import Tokenizer

BEFORE = 16  # tokens of the prompt that decide how the answer's first is written (whether it keeps its space)


class Reader:
    """A plain one tells the engine's text. With a parser it reads the text as the model wrote it, special tokens and
    all, for these are the tags of thoughts and calls.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        *,
        parser: AnswerParser | None = None,
        stop: Sequence[str] = (),
        plain: bool = False,
    ) -> None:
        self._parser = parser
        self._tokenizer, self._before = tokenizer, prompt_ids[-BEFORE:]
        self._whole = None if plain else IncrementalDetokenizer(tokenizer, False, self._before)
        self._stops = StopStrings(stop)
        self.thinking = self.thought = 0  # tokens: since the thought's begin, and when it had ended

    @property
    def called(self) -> bool:
        """Whether it has called a tool."""
        return self._parser is not None and self._parser.calls > 0

    def begin(self, token_ids: Sequence[int]) -> list[Delta]:
        """The answer begins with these tokens; a character that they leave unfinished comes with those that follow."""
        if not token_ids:
            return []
        if self._parser is None:
            plain = IncrementalDetokenizer(self._tokenizer, prompt_ids=self._before)
            return _said("".join(plain.push(token) for token in token_ids))
        return [delta for token in token_ids for delta in self._parser.push(self._shown(token))]

    def push(self, event: Event) -> list[Delta]:
        """What is new and certain."""
        if self._parser is None:
            return _said(event.text)
        text = "" if event.token_id is None else self._shown(event.token_id)
        if event.answer is None:
            deltas = self._parser.push(text)
        else:
            deltas = [*self._parser.push(text + self._rest()), *self._parser.finish()]
        self._count(event, deltas)
        return deltas

    def _shown(self, token_id: int) -> str:
        assert self._whole is not None
        return self._stops.push([Run(self._whole.push(token_id), True)])

    def _rest(self) -> str:
        assert self._whole is not None
        return self._stops.push([Run(self._whole.flush(), True)]) + self._stops.flush()

    def _count(self, event: Event, deltas: Sequence[Delta]) -> None:
        """Tokens of the thought: those before the first of what follows it."""
        if self.thought:
            return
        self.thinking += event.token_id is not None
        if any(delta.content or delta.call for delta in deltas) or event.answer is not None:
            self.thought = self.thinking if self._thinks else -1
        self._thinks = self._thinks or any(delta.reasoning for delta in deltas)

    _thinks = False

    @property
    def reasoning_tokens(self) -> int:
        return max(self.thought, 0)


def _said(text: str) -> list[Delta]:
    return [Delta(content=text)] if text else []
