"""How tokens are spelled: the bytes that each adds to a text, as its tokenizer writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pellucid.base.errors import UnsupportedError

if TYPE_CHECKING:
    from pellucid.text.tokenizer import Tokenizer

_TABLES: WeakKeyDictionary[Tokenizer, list[bytes] | None] = WeakKeyDictionary()


def spelled(tokenizer: Tokenizer, token_id: int) -> bytes:
    """The token's bytes inside a text, its leading space with them; ``b""`` for an id without a token.

    The first call makes the table of a vocabulary, which takes a while where it is large (``spell_ahead``).
    """
    table = spell_ahead(tokenizer)
    if table is None:
        return tokenizer.decode([token_id]).encode()
    return table[token_id] if token_id < len(table) else b""


def spell_ahead(tokenizer: Tokenizer) -> list[bytes] | None:
    """The table; None where tokens have no bytes by themselves."""
    if tokenizer not in _TABLES:
        try:
            _TABLES[tokenizer] = tokenizer.token_bytes()
        except UnsupportedError:
            _TABLES[tokenizer] = None
    return _TABLES[tokenizer]
