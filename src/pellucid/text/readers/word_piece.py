"""BERT's ``vocab.txt``: a token a line, its number the id. Decoders that were trained on it (Chinese GPT-2s) begin a
text with [CLS] and end it with [SEP], as their tokenizer's class does.

Source: transformers, ``models/bert/tokenization_bert.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pellucid.base.errors import TokenizerError
from pellucid.text.readers.tokenizer_json import JsonTokenizer, add_template, library_errors
from pellucid.text.tokenizer_files import read_text

NAMES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def load_word_piece(path: Path, config: Mapping[str, Any]) -> JsonTokenizer:
    """Raises: TokenizerError where a token occurs twice, or the unknown token not at all."""
    lines = read_text(path).split("\n")
    vocab: dict[str, int] = {}
    for place, line in enumerate(lines[:-1] if not lines[-1] else lines):
        if vocab.setdefault(line.rstrip("\r"), place) != place:
            raise TokenizerError("a token occurs twice", where=f"{path}, line {place + 1}", received=repr(line[:80]))
    return word_piece(vocab, {**{name: token for name, token in NAMES.items() if token in vocab}, **config}, path)


def word_piece(vocab: Mapping[str, int], config: Mapping[str, Any], where: object) -> JsonTokenizer:
    """WordPiece: a word is the longest token that it begins with, what follows (``##``) likewise."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    cls, sep, unk = (str(config.get(name) or NAMES[name]) for name in ("cls_token", "sep_token", "unk_token"))
    lacking = [token for token in (cls, sep, unk) if token not in vocab]
    if lacking:
        raise TokenizerError("special tokens are missing", where=where, expected=", ".join(lacking))
    lowercase = bool(config.get("do_lower_case", True))
    strip = config.get("strip_accents")
    with library_errors("the vocabulary cannot be used", where):
        backend = Tokenizer(models.WordPiece(vocab=dict(vocab), unk_token=unk, max_input_chars_per_word=100))
        backend.normalizer = normalizers.BertNormalizer(
            handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
            lowercase=lowercase,
            strip_accents=lowercase if strip is None else bool(strip),
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
        tokenizer = JsonTokenizer(backend, config, where)
        add_template(backend, [cls], [sep])
    return tokenizer
