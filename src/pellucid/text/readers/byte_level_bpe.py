"""Byte-level BPE built in memory: GPT-2's ``vocab.json`` + ``merges.txt``, GGUF's lists, tiktoken's ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.base.errors import TokenizerError
from pellucid.text.readers.pre_tokenizers import GPT2_WORDS, PreTokenizer
from pellucid.text.readers.tokenizer_json import library_errors
from pellucid.text.tokenizer_files import read_json, read_text

if TYPE_CHECKING:
    import tokenizers

Merge = tuple[str, str]


def build_bpe(
    vocab: Mapping[str, int], merges: Sequence[Merge], pre: PreTokenizer, where: object, *, unk: str | None = None
) -> tokenizers.Tokenizer:
    """A tokenizer that cuts text with ``pre``, spells it in the byte-level alphabet and applies ``merges`` in order.

    Where ``pre`` says so it spells characters, a space as ``▁``; one that is no token becomes byte tokens,
    or ``unk``.

    Raises: TokenizerError where a merge names or makes a token that the vocabulary lacks.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    lacking = next(((a, b) for a, b in merges if a not in vocab or b not in vocab or a + b not in vocab), None)
    if lacking:  # the library would panic
        left, right = lacking
        token = next(token for token in (left, right, left + right) if token not in vocab)
        raise TokenizerError(
            f"the merge {left!r} + {right!r} needs the token {token!r}, which the vocabulary lacks",
            where=where,
            remedy="vocabulary and merges are of different tokenizers, or damaged",
        )
    if not pre.bytes:
        return _characters(vocab, merges, pre, where, unk)
    with library_errors("the vocabulary cannot be used", where):
        backend = tokenizers.Tokenizer(
            models.BPE(vocab=dict(vocab), merges=list(merges), ignore_merges=pre.ignore_merges)
        )
        if pre.nfc:
            backend.normalizer = normalizers.NFC()
        # GPT-2's own pattern is ByteLevel's; within it, add_prefix_space is about the text and not about each word.
        own = pre.patterns[-1] == GPT2_WORDS
        splits = [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
            for pattern in (pre.patterns[:-1] if own else pre.patterns)
        ]
        spelling = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=own)
        backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, spelling]) if splits else spelling
        backend.decoder = decoders.ByteLevel()
    return backend


def _characters(
    vocab: Mapping[str, int], merges: Sequence[Merge], pre: PreTokenizer, where: object, unk: str | None
) -> tokenizers.Tokenizer:
    """Source: llama.cpp, ``src/llama-vocab.cpp``, ``GEMMA4``: lines by themselves, several line ends as one token."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    with library_errors("the vocabulary cannot be used", where):
        model = models.BPE(
            vocab=dict(vocab), merges=list(merges), byte_fallback=True, fuse_unk=True, ignore_merges=pre.ignore_merges
        )
        if unk is not None:
            model.unk_token = unk
        backend = tokenizers.Tokenizer(model)
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in pre.patterns]
        )
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def read_vocab(path: Path) -> dict[str, int]:
    """``vocab.json``: token → id. Raises: TokenizerError where it is something else."""
    vocab = read_json(path)
    if not all(isinstance(i, int) and 0 <= i < 2**31 for i in vocab.values()):
        raise TokenizerError("not a vocabulary", where=path, expected="an object of tokens and their ids")
    return vocab


def read_merges(path: Path) -> list[Merge]:
    """``merges.txt``: two tokens a line, the first merge first; a ``#version`` line may head it."""
    merges: list[Merge] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        line = line.rstrip("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            raise TokenizerError("a merge must be two tokens", where=f"{path}, line {number}", received=repr(line[:80]))
        merges.append((left, right))
    return merges
