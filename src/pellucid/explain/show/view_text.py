"""What the page says of a text before the model sees it: merges, special tokens, the chat template, a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pellucid.base.errors import PellucidError
from pellucid.explain.prompt import byte_level, piece_of
from pellucid.explain.tokens import Word, chat_story, token_story

# The four texts of the notes, a batch of 4 in a context of 16.
BATCH = ("hello world", "today is monday", "Attention Is All You Need", "大模型令人头秃")
CONTEXT = 16
LONGEST = 400  # characters whose merges are shown
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


def text_details(tokenizer: Any, text: str, ids: Sequence[int]) -> dict[str, Any]:
    """Everything about the text; empty where there is no tokenizer."""
    if tokenizer is None:
        return {
            "merges": None,
            "special": [],
            "template": None,
            "batch": {"rows": [[{"id": i, "text": str(i), "mask": 1} for i in ids[:CONTEXT]]]},
        }
    return {
        "merges": _merges(tokenizer, text),
        "special": _special(tokenizer),
        "template": _template(tokenizer, text),
        "batch": {"rows": _batch(tokenizer)},
    }


def _merges(tokenizer: Any, text: str) -> list[dict[str, Any]] | None:
    """Each word with its stages; None where no merge is there to be shown."""
    try:
        story = token_story(tokenizer, text[:LONGEST])
    except (PellucidError, AttributeError, KeyError):
        return None
    words = [
        {
            "word": read(word.text),
            "stages": [[read(symbol) for symbol in symbols] for symbols in (word.symbols, *after)],
            "rules": [f"{read(step.left)} + {read(step.right)}" for step in word.merges],
        }
        for word in story.words
        if not word.special
        for after in [[step.symbols for step in word.merges]]
        for read in [_spelling(tokenizer, word)]
    ]
    return words if any(word["rules"] for word in words) else None


def _spelling(tokenizer: Any, word: Word) -> Callable[[str], str]:
    """How a word's symbols read: a byte-level vocabulary's as text, and as bytes where they are no whole characters."""
    raw = byte_level(word.text)
    if raw is None or raw.decode(errors="replace").strip() != tokenizer.decode(list(word.ids)).strip():
        return str

    def read(symbol: str) -> str:
        part = byte_level(symbol) or b""
        try:
            return part.decode()
        except UnicodeDecodeError:
            return f"‹{part.hex(' ').upper()}›"

    return read


def _special(tokenizer: Any) -> list[dict[str, Any]]:
    roles: dict[str, list[str]] = {}
    for role in ROLES:
        token = getattr(tokenizer, role, None)
        if token is not None:
            roles.setdefault(str(token), []).append(role.removesuffix("_token"))
    others = [str(token.content) for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special]
    names = [*roles, *(token for token in others if token not in roles)]
    return [
        {"token": name, "id": tokenizer.convert_tokens_to_ids(name), "role": ", ".join(roles.get(name, []))}
        for name in names[:24]
    ]


def _template(tokenizer: Any, text: str) -> dict[str, Any] | None:
    if not getattr(tokenizer, "chat_template", None):
        return None
    try:
        return {"rendered": chat_story(tokenizer, text[:LONGEST]).text}
    except PellucidError:
        return None


def _batch(tokenizer: Any) -> list[list[dict[str, Any]]]:
    rows = [tokenizer(text)["input_ids"][:CONTEXT] for text in BATCH]
    width = max(map(len, rows))
    pad = getattr(tokenizer, "pad_token_id", None) or 0
    return [
        [{"id": i, "text": piece_of(tokenizer, i), "mask": 1} for i in row]
        + [{"id": pad, "text": "", "mask": 0}] * (width - len(row))
        for row in rows
    ]
