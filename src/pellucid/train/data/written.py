"""A conversation as a chat format writes it, and its tokens; what an answer quotes of stop tokens is ordinary text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

from pellucid.base.errors import TokenizerError
from pellucid.text.chat import RenderedChat, encode_chat
from pellucid.text.encoding import Encoded
from pellucid.text.tokenizer import Tokenizer

# Stands within a stop token's text that an answer quotes, while a template writes it, so that the quotation becomes
# ordinary tokens. Private use: no text of ours holds it.
CUT = "\uf8e7"


def cut_quotations(content: str, stops: Sequence[str]) -> str:
    """An answer with a cut in each stop token's text that it quotes; at its end such a text is what it says, an end."""
    body = content
    while end := next((stop for stop in stops if body.rstrip().endswith(stop)), None):
        body = body.rstrip().removesuffix(end)
    ending = content[len(body) :]
    for stop in stops:
        body = body.replace(stop, stop[0] + CUT + stop[1:])
    return body + ending


def uncut(chat: RenderedChat) -> tuple[RenderedChat, list[int]]:
    """The text without the cuts, and the places where they were."""
    if CUT not in chat.text:
        return chat, []
    pieces = chat.text.split(CUT)
    cuts = list(accumulate(map(len, pieces[:-1])))

    def place(at: int) -> int:
        return at - chat.text.count(CUT, 0, at)

    spans = [(place(start), place(end)) for start, end in chat.assistant_spans]
    return replace(chat, text="".join(pieces), assistant_spans=spans), cuts


def texts_in(value: Any, *, but: Collection[str] = (), name: str = "the message") -> Iterator[tuple[str, str]]:
    """Every text within a message, and the key that it stands under."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            if key not in but:
                yield from texts_in(part, name=str(key))
    elif isinstance(value, list):
        for part in value:
            yield from texts_in(part, name=name)


class Written:
    """A conversation as its format writes it: as text, or as ids where the format is the model's own. At ``cuts`` the
    text is encoded in pieces, so that no token reaches over them.
    """

    def __init__(self, tokenizer: Tokenizer, chat: RenderedChat, cuts: Sequence[int] = ()) -> None:
        self.tokenizer, self.chat, self.cuts = tokenizer, chat, cuts
        self._encoded: Encoded | None = chat.encoded

    @property
    def encoded(self) -> Encoded:
        if self._encoded is None:
            self._encoded = (
                self._in_pieces() if self.cuts else encode_chat(self.tokenizer, self.chat, with_mask=True)[0]
            )
        return self._encoded

    def _in_pieces(self) -> Encoded:
        """Raises: DataError where the tokenizer writes a piece otherwise than the same text within a longer one."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for start, end in pairwise((0, *self.cuts, len(self.chat.text))):
            piece = encode_chat(self.tokenizer, RenderedChat(self.chat.text[start:end]), with_mask=True)[0]
            ids += piece.ids
            offsets += [(start + first, start + last) for first, last in piece.offsets or []]
        if self.tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip() != self.chat.text.strip():
            raise TokenizerError(
                "an answer quotes a stop token, and this tokenizer cannot write one as ordinary text",
                remedy="leave the record out, or write the token otherwise",
            )
        return Encoded(ids, offsets)

    @property
    def ids(self) -> list[int]:
        return self.encoded.ids

    def after(self, beginning: Written) -> int | None:
        """The first token that is not all of ``beginning``; None where this begins otherwise."""
        if self.chat.encoded is not None:
            length = len(beginning.ids)
            return length if self.ids[:length] == beginning.ids else None
        length = len(beginning.chat.text)
        if not self.chat.text.startswith(beginning.chat.text):
            return None
        offsets = self.encoded.offsets or []
        return next((index for index, (_, end) in enumerate(offsets) if end > length), len(offsets))
