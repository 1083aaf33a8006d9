"""Answers as a row of blocks (thoughts, text, calls), for the APIs that open and close each: Anthropic's, and OpenAI's
Responses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pellucid.serve.work.answer import Piece

Kind = Literal["reasoning", "text", "call"]


@dataclass
class Block:
    """One part of an answer. ``text``: of a call, its arguments as JSON."""

    index: int
    kind: Kind
    text: str = ""
    call: int | None = None  # which call it is
    id: str | None = None
    name: str | None = None


@dataclass
class Blocks:
    """Pieces of one choice become ``("start" | "delta" | "stop", block, new text)``; at most one block is open."""

    blocks: list[Block] = field(default_factory=list)
    open: Block | None = None

    def push(self, piece: Piece) -> Iterator[tuple[str, Block, str]]:
        if piece.reasoning:
            yield from self._extend("reasoning", piece.reasoning)
        if piece.content:
            yield from self._extend("text", piece.content)
        for call in piece.tool_calls:
            if self.open is None or self.open.call != call.index:
                yield from self._begin("call", call=call.index, id=call.id, name=call.name)
            assert self.open is not None
            if call.arguments:
                self.open.text += call.arguments
                yield "delta", self.open, call.arguments

    def finish(self) -> Iterator[tuple[str, Block, str]]:
        if self.open is not None:
            block, self.open = self.open, None
            yield "stop", block, ""

    def _extend(self, kind: Kind, text: str) -> Iterator[tuple[str, Block, str]]:
        if self.open is None or self.open.kind != kind:
            yield from self._begin(kind)
        assert self.open is not None
        self.open.text += text
        yield "delta", self.open, text

    def _begin(
        self, kind: Kind, *, call: int | None = None, id: str | None = None, name: str | None = None
    ) -> Iterator[tuple[str, Block, str]]:
        yield from self.finish()
        self.open = Block(len(self.blocks), kind, call=call, id=id, name=name)
        self.blocks.append(self.open)
        yield "start", self.open, ""


def blocks_of(piece: Piece) -> list[Block]:
    """The blocks of a whole choice."""
    blocks = Blocks()
    for _ in blocks.push(piece):
        pass
    return blocks.blocks
