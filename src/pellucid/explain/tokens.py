"""How a text became tokens: the pieces it was cut into, then every merge, in the order in which the rules applied.

Byte-pair encoding starts from single characters (or bytes) and joins, again and again, the neighbours whose rule comes
first: in a ``merges`` list the one written earliest, in a SentencePiece model the one whose joined piece scores
highest; the leftmost on a tie. Sources: Sennrich et al. 2016; SentencePiece ``bpe_model.cc``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from pellucid.text.readers.byte_tokens import TOKEN_OF_BYTE
from pellucid.text.readers.sentencepiece_model import SentencePieceTokenizer
from pellucid.text.readers.tokenizer_json import JsonTokenizer
from pellucid.text.tokenizer import Tokenizer

# (left, right) -> the place of its rule: smaller goes first; None where there is no rule
Rank = Callable[[str, str], float | None]


@dataclass(frozen=True)
class MergeStep:
    """Two neighbours joined: ``at`` is the left one's place; ``rank`` the rule's place (or minus the piece's score)."""

    left: str
    right: str
    at: int
    rank: float
    symbols: tuple[str, ...]  # the word after this step


@dataclass(frozen=True)
class Word:
    """A stretch of text that is tokenized by itself, in the vocabulary's own spelling (``Ġ`` or ``▁`` for a space)."""

    text: str
    symbols: tuple[str, ...]  # what merging starts from
    merges: tuple[MergeStep, ...]
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    special: bool = False  # an added token, cut out before anything else


@dataclass(frozen=True)
class TokenStory:
    """``ids`` are the tokenizer's own; ``exact`` says that the merges shown lead to the very same."""

    text: str
    kind: str  # bpe, or other (a unigram model chooses the likeliest cut and merges nothing)
    words: tuple[Word, ...]
    added: tuple[tuple[int, str], ...]  # special tokens put around the text: id and token
    ids: tuple[int, ...]
    exact: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ChatStory:
    """A message as the model was trained to read it."""

    template: str
    text: str
    ids: tuple[int, ...]


def token_story(tokenizer: Tokenizer, text: str) -> TokenStory:
    """The cut and the merges of one text. Where the tokenizer is no BPE, the words show its tokens and no merges."""
    own = tuple(tokenizer.encode(text, add_special_tokens=False))
    ids = tuple(tokenizer.encode(text))
    words = tuple(_words(tokenizer, text))
    exact = bool(words) and tuple(i for word in words for i in word.ids) == own
    if not exact:
        pieces = tokenizer.pieces(text)
        words = tuple(Word(piece.text, (piece.token,), (), (piece.token,), (piece.id,)) for piece in pieces)
    start = next((n for n in range(len(ids) - len(own) + 1) if ids[n : n + len(own)] == own), 0)
    around = (*ids[:start], *ids[start + len(own) :])
    added = tuple((i, tokenizer.convert_ids_to_tokens(i)) for i in around)
    return TokenStory(text, "bpe" if exact else "other", words, added, ids, exact)


def chat_story(tokenizer: Tokenizer, text: str, system: str | None = None) -> ChatStory:
    """``text`` as a user's message, rendered by the chat template. Raises: TemplateError where there is none."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    template = tokenizer.chat_template
    source = template if isinstance(template, str) else (template or {}).get("default", "")
    return ChatStory(source, rendered, tuple(ids))


def merge(symbols: Sequence[str], rank: Rank) -> tuple[tuple[str, ...], tuple[MergeStep, ...]]:
    """Apply the rules until none applies; returns the tokens and every step."""
    now, steps = list(symbols), []
    while len(now) > 1:
        ranked = [(place, i) for i in range(len(now) - 1) if (place := rank(now[i], now[i + 1])) is not None]
        if not ranked:
            break
        place, i = min(ranked)
        left, right = now[i], now[i + 1]
        now[i : i + 2] = [left + right]
        steps.append(MergeStep(left, right, i, place, tuple(now)))
    return tuple(now), tuple(steps)


def _words(tokenizer: Tokenizer, text: str) -> Iterator[Word]:
    if isinstance(tokenizer, SentencePieceTokenizer):
        yield from _sentencepiece_words(tokenizer, text)
    elif isinstance(tokenizer, JsonTokenizer) and (rules := _json_rules(tokenizer)) is not None:
        yield from _json_words(tokenizer, rules, text)


@dataclass(frozen=True, eq=False)
class _JsonRules:
    """The ``model`` of a tokenizer.json."""

    vocab: dict[str, int]
    ranks: dict[tuple[str, str], int]
    byte_fallback: bool
    ignore_merges: bool
    unk_token: str | None


@lru_cache(2)
def _json_rules(tokenizer: JsonTokenizer) -> _JsonRules | None:
    model = json.loads(tokenizer._backend.to_str())["model"]
    if model.get("type") != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return None
    merges = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"])
    ranks = {(left, right): place for place, (left, right) in enumerate(merges)}
    return _JsonRules(
        model["vocab"],
        ranks,
        bool(model.get("byte_fallback")),
        bool(model.get("ignore_merges")),
        model.get("unk_token"),
    )


def _json_words(tokenizer: JsonTokenizer, rules: _JsonRules, text: str) -> Iterator[Word]:
    backend, added = tokenizer._backend, {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
    pattern = "|".join(re.escape(content) for content in sorted(added, key=len, reverse=True))
    for part in re.split(f"({pattern})", text) if pattern else [text]:
        if part in added:
            yield Word(part, (part,), (), (part,), (added[part],), special=True)
        elif part:
            normal = backend.normalizer.normalize_str(part) if backend.normalizer else part
            cut = (
                [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]
                if backend.pre_tokenizer
                else [normal]
            )
            for word in cut:
                if rules.ignore_merges and word in rules.vocab:
                    yield Word(word, (word,), (), (word,), (rules.vocab[word],))
                    continue
                symbols = tuple(symbol for char in word for symbol in _symbols(char, rules))
                tokens, steps = merge(symbols, lambda left, right: rules.ranks.get((left, right)))
                yield Word(word, symbols, steps, tokens, tuple(rules.vocab.get(token, -1) for token in tokens))


def _symbols(char: str, rules: _JsonRules) -> list[str]:
    if char in rules.vocab:
        return [char]
    if rules.byte_fallback:
        return [TOKEN_OF_BYTE[byte] for byte in char.encode("utf-8")]
    return [rules.unk_token] if rules.unk_token else []


def _sentencepiece_words(tokenizer: SentencePieceTokenizer, text: str) -> Iterator[Word]:
    for start, end, settled in tokenizer._segments(text, False):
        if settled is not None:
            token = text[start:end]
            names = tuple(tokenizer.convert_ids_to_tokens(list(settled)))
            yield Word(token, names, (), names, tuple(settled), special=True)
            continue
        processor = tokenizer._processor_at(start)
        unknown, size = processor.unk_id(), processor.get_piece_size()

        def rank(left: str, right: str) -> float | None:
            piece = processor.piece_to_id(left + right)  # noqa: B023
            return None if piece == unknown else -processor.get_score(piece)  # noqa: B023

        for word in re.findall("▁*[^▁]+|▁+", processor.normalize(text[start:end])):
            tokens, steps = merge(tuple(word), rank)
            spelled = [
                piece
                for token in tokens
                for piece in _or_bytes(token, processor.piece_to_id(token) != unknown, size > 256)
            ]
            yield Word(
                word, tuple(word), steps, tuple(spelled), tuple(processor.piece_to_id(piece) for piece in spelled)
            )


def _or_bytes(token: str, known: bool, has_bytes: bool) -> list[str]:
    """A character that the vocabulary lacks falls back to its bytes."""
    return [token] if known or not has_bytes else [TOKEN_OF_BYTE[byte] for byte in token.encode("utf-8")]
