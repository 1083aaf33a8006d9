"""tiktoken's rank files: Qwen 1's ``qwen.tiktoken``, Llama 3's ``tokenizer.model``, Kimi's ``tiktoken.model``.

A file holds the tokens and their ranks, which are their ids, and nothing of how text is cut into words, nor the special
tokens that follow: both are known here by the model, as its own code has them, which is never run.

Source: openai/tiktoken, ``src/lib.rs``, ``_byte_pair_merge``; Qwen/Qwen-7B, ``tokenization_qwen.py``;
meta-llama/llama-models, ``models/llama3/tokenizer.py``; moonshotai/Kimi-K2-Instruct, ``tokenization_kimi.py``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pellucid.base.errors import TokenizerError
from pellucid.text.added_tokens import AddedToken
from pellucid.text.readers.byte_level import to_chars
from pellucid.text.readers.byte_level_bpe import Merge, build_bpe
from pellucid.text.readers.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from pellucid.text.readers.tokenizer_json import JsonTokenizer
from pellucid.text.tokenizer_files import read_bytes

MAX_FILE_BYTES = 64 * 2**20
MAX_TOKEN_BYTES = 512  # the longest in use are some hundred spaces
MAX_SQUARES = 2**28  # of the tokens' lengths: what finding their parts costs; vocabularies in use have 2²⁴
_FIRST_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")


@dataclass(frozen=True, kw_only=True)
class RankFile:
    """What a model's code knows of its ranks: how text is cut, and the special tokens after the last rank."""

    words: str  # of PRE_TOKENIZERS
    special: Callable[[int], list[str]]  # from how many ranks there are
    names: Mapping[str, str] = field(default_factory=dict)
    ends: tuple[str, ...] = ()  # after which an answer is over
    add_bos: bool = False


def _qwen(ranks: int) -> list[str]:
    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{place}|>" for place in range(205))]


def _llama3(ranks: int) -> list[str]:
    """Llama 3.1's; the first Llama 3 calls three of them reserved. Both have the tokens of a chat at the same ids."""
    known = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"]
    known += ["<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>"]
    known += ["<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]
    return [*known, *(f"<|reserved_special_token_{place}|>" for place in range(3, 3 + 256 - len(known)))]


def _kimi(ranks: int) -> list[str]:
    return [f"<|reserved_token_{place}|>" for place in range(ranks, ranks + 258)]


_END = "<|endoftext|>"
QWEN = RankFile(words="qwen2", special=_qwen, names={"eos_token": _END, "pad_token": _END}, ends=(_END, "<|im_end|>"))
LLAMA3 = RankFile(
    words="llama-bpe",
    special=_llama3,
    names={
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "pad_token": "<|finetune_right_pad_id|>",
    },
    ends=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    add_bos=True,
)
KIMI = RankFile(
    words="kimi-k2",
    special=_kimi,
    names={"bos_token": "[BOS]", "eos_token": "[EOS]", "unk_token": "[UNK]", "pad_token": "[PAD]"},
    ends=("[EOS]", "[EOT]", "<|im_end|>"),
)


def are_ranks(data: bytes) -> bool:
    """Whether a file (``tokenizer.model``) holds ranks; SentencePiece's begin with the byte of their first field."""
    return _FIRST_LINE.match(data) is not None


def load_ranks(path: Path, known: RankFile, config: Mapping[str, Any]) -> JsonTokenizer:
    """``added_tokens_decoder`` of the config names special tokens anew, each at its id.

    Raises: TokenizerError where it is no rank file, or one whose ranks leave out a number.
    """
    ranks = read_ranks(path)
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise TokenizerError("ranks must count from 0 without a gap", where=path, received=f"{len(ranks)} tokens")
    special = dict(enumerate(known.special(len(ranks)), len(ranks)))
    for place, token in (config.get("added_tokens_decoder") or {}).items():
        if place in special:
            special[place] = token.content
    pre = replace(PRE_TOKENIZERS[known.words], ignore_merges=True)
    return from_ranks(ranks, special, pre, path, known, config)


def from_ranks(
    ranks: Mapping[bytes, int],
    special: Mapping[int, str],
    pre: PreTokenizer,
    where: Path,
    known: RankFile,
    config: Mapping[str, Any],
) -> JsonTokenizer:
    """``ranks``: token → id; ``special``: id → token, of which none is made of ordinary text."""
    vocab, merges = ranks_to_bpe(ranks)
    names = {**{name: token for name, token in known.names.items() if token in {*special.values()}}, **config}
    listed = {place: AddedToken(token, special=True, normalized=False) for place, token in special.items()}
    flags = {place: token for place, token in (config.get("added_tokens_decoder") or {}).items() if place in listed}
    for place, token in special.items():
        if vocab.setdefault(token, place) != place:
            raise TokenizerError(
                f"the token {token!r} occurs twice", where=where, received=f"ids {vocab[token]}, {place}"
            )
    ends = [place for place, token in special.items() if token in known.ends]
    written = {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": {**listed, **flags}}
    stops = {} if config.get("stop_token_ids") or not ends else {"stop_token_ids": ends}
    tokenizer = JsonTokenizer(build_bpe(vocab, merges, pre, where), {**names, **written, **stops}, where)
    bos = config.get("add_bos_token")
    tokenizer._add_ends(
        (known.add_bos if bos is None else bool(bos)) and tokenizer.bos_token is not None,
        bool(config.get("add_eos_token")) and tokenizer.eos_token is not None,
    )
    return tokenizer


def read_ranks(path: Path) -> dict[bytes, int]:
    """tiktoken's file: a token in base64 and its rank on each line. Raises: TokenizerError where it is no such file."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_bytes(path, MAX_FILE_BYTES).splitlines(), 1):
        if not line:
            continue
        try:
            token, rank = line.split()
            place, data = int(rank), base64.b64decode(token, validate=True)
        except (ValueError, binascii.Error):
            raise TokenizerError(
                "a rank must be a token in base64 and a number",
                where=f"{path}, line {number}",
                received=repr(line[:80]),
            ) from None
        if not 0 < len(data) <= MAX_TOKEN_BYTES or not 0 <= place < 2**31:
            raise TokenizerError("a token or rank that cannot be", where=f"{path}, line {number}", received=len(data))
        ranks[data] = place
    return ranks


def ranks_to_bpe(ranks: Mapping[bytes, int]) -> tuple[dict[str, int], list[Merge]]:
    """Vocabulary and merges that encode as tiktoken does: the pair whose joined token ranks lowest goes first.

    A token is only ever joined of the two that it comes to when it is encoded alone with the ranks below its own; one
    that comes to more than two is never joined, but a word that is such a token is taken whole (``ignore_merges``).
    """
    squares = sum(len(token) ** 2 for token in ranks)
    if squares > MAX_SQUARES:
        raise TokenizerError(
            "no vocabulary has so many long tokens", expected=f"at most {MAX_SQUARES}", received=squares
        )
    merges: list[tuple[int, Merge]] = []
    for token, rank in ranks.items():
        parts = _parts_below(token, ranks, rank)
        if len(parts) == 2:
            merges.append((rank, (to_chars(parts[0]), to_chars(parts[1]))))
    merges.sort()
    return {to_chars(token): rank for token, rank in ranks.items()}, [merge for _, merge in merges]


def _parts_below(token: bytes, ranks: Mapping[bytes, int], below: int) -> list[bytes]:
    """The token encoded by the ranks below a number, as far as two parts."""
    parts = [token[place : place + 1] for place in range(len(token))]
    joined = [ranks.get(parts[place] + parts[place + 1], below) for place in range(len(parts) - 1)]
    while len(parts) > 2:
        lowest = min(joined)
        if lowest >= below:
            break
        place = joined.index(lowest)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
        del joined[place]
        for other in (place - 1, place):
            if 0 <= other < len(joined):
                joined[other] = ranks.get(parts[other] + parts[other + 1], below)
    return parts
