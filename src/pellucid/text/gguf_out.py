"""A tokenizer → GGUF's metadata, proven: read back, it gives the same ids.

llama.cpp has two kinds that decoders use: byte-level BPE (``gpt2``), whose pattern that cuts text into words has a
*name* there, and SentencePiece's BPE (``llama``), which merges by score. The name is found by what the tokenizer does
with texts that tell the patterns apart.

Source: llama.cpp, convert_hf_to_gguf.py (set_vocab and what follows it), ``src/llama-vocab.cpp``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import TokenizerError
from pellucid.base.notice import notice
from pellucid.text.readers.byte_level import to_chars
from pellucid.text.readers.byte_level_bpe import build_bpe
from pellucid.text.readers.byte_tokens import byte_of_token
from pellucid.text.readers.gguf import tokenizer_from_gguf
from pellucid.text.readers.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from pellucid.text.readers.sentencepiece_model import SentencePieceTokenizer
from pellucid.text.readers.sentencepiece_proto import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, read_model
from pellucid.text.readers.tokenizer_json import JsonTokenizer
from pellucid.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers

NAMES = {
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "unk_token_id": "unknown_token_id",
    "pad_token_id": "padding_token_id",
    "sep_token_id": "seperator_token_id",  # spelled so in the format
    "mask_token_id": "mask_token_id",
    "cls_token_id": "cls_token_id",
}
NEVER = -1e6  # the score of a piece that no merge makes
# Where patterns and normalizations part: cases, numbers, apostrophes, spaces, lines, marks, scripts, composed letters.
PROBES = (
    "Hello, world!", "I'm you're WE'LL they'D it's 'tis don’t", "HelloWorld helloWORLD ÀÉîöü ǅ", "a  b   c\td\t\te",
    "\n\n\nline\r\n \n  line \n", "  two spaces", " trailing  ", "1 12 123 1234 12345 1234567 3.14 1,000,000 ½ ² Ⅳ ٣٤",
    "x=1;y+=2//3 a->b::c <=> {}[]()$%^&*~`|\\", "http://a.b/c?d=e&f#g user@host.org", "snake_case camelCase kebab-case",
    "$100 €5.00 £7 50% #1", "…—–“quoted”‘single’«guillemets»", "日本語のテキスト 中文字符测试 한국어",
    "中1文2字 一二三 abc中文def",
    "हिन्दी देवनागरी ไทย العربية עברית", "е́ é e\u0301 ñ n\u0303 Å A\u030a ﬁ ﬃ ① ㎏", "😀😃 👩‍👩‍👧‍👦 🇫🇷 ❤️ 🏳️‍🌈",
    "\u200b\u00a0\u3000\u2028x\ufeff", "\x00\x01\x7f", "ÇüéâäàåçêëèïîìÄÅ", "don't Don'T DON'T we'd've", "…!!!???---===",
    "A.B.C. e.g. i.e. U.S.A.", "function(x) {\n    return x*x;\n}\n", "<|weird|> [MASK] <think", "a" * 40,
    " " * 17, "\t" * 5,
    "12:34:56 2024-01-02 +1 (555) 010-9999", "ﷺ ꙮ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚", "ab/cd/ef//g", "x\n/y\n//z ", "Ωμέγα ПРИВЕТ привет ß ẞ",
    "'S 'T 'RE 'VE 'M 'LL 'D ’s ’T", "1st 2nd 3rd 4x4 x86_64 h2o", "   leading\n   indented\n\ttabbed",
    "?!?! ..,, ;;::",
)  # fmt: skip


def tokenizer_to_gguf(tokenizer: Tokenizer, num_rows: int, ends: Sequence[int] = ()) -> dict[str, Any]:
    """The metadata ``tokenizer.…`` of a model whose embedding table has ``num_rows``; ``ends``: ids that end an answer.

    Raises: TokenizerError where llama.cpp has no such tokenizer, naming what it lacks, or where what is written would
    give other ids.
    """
    if isinstance(tokenizer, JsonTokenizer):
        written = _of_json(tokenizer)
    elif isinstance(tokenizer, SentencePieceTokenizer):
        written = _of_sentencepiece(tokenizer)
    else:
        raise _no_place(tokenizer, f"{type(tokenizer).__name__} is neither byte-level BPE nor SentencePiece")
    written |= _special(tokenizer, ends)
    _fit(written, num_rows, tokenizer.where)
    if template := tokenizer.chat_template:
        named = {"default": template} if isinstance(template, str) else dict(template)
        written |= {
            "chat_template" if name == "default" else f"chat_template.{name}": text for name, text in named.items()
        }
    metadata = {
        f"tokenizer.{key if key.startswith('chat_template') else 'ggml.' + key}": value
        for key, value in written.items()
    }
    prove(tokenizer, tokenizer_from_gguf(metadata))
    return metadata


def copied(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer of another GGUF file, as it is there."""
    return {key: value for key, value in metadata.items() if key.startswith("tokenizer.")}


def prove(tokenizer: Tokenizer, again: Tokenizer) -> None:
    """Raises: TokenizerError where the two give different ids for a text."""
    for text in _probes(tokenizer):
        for special in (False, True):
            ours, theirs = (one.encode(text, add_special_tokens=special) for one in (tokenizer, again))
            if ours != theirs:
                raise TokenizerError(
                    "written as GGUF, the tokenizer would give other ids",
                    where=tokenizer.where,
                    expected=f"{ours[:12]} for {text[:40]!r}",
                    received=theirs[:12],
                    remedy="write a folder instead: pellucid convert MODEL FOLDER",
                )
    for token_id, token in tokenizer.added_tokens_decoder.items():
        text = f"a{token.content}b"
        if token_id < len(again) and tokenizer.encode(text) != again.encode(text):
            notice(
                f"{tokenizer.where}: beside {token.content!r} in a text, GGUF's readers and this tokenizer differ "
                "about spaces; chat templates write none there"
            )
            return


def _probes(tokenizer: Tokenizer) -> Iterable[str]:
    yield from PROBES
    added = tokenizer.added_tokens_decoder
    ordinary = [i for i in range(len(tokenizer)) if i not in added]
    chance = random.Random(0)
    for _ in range(200):
        text = tokenizer.decode([chance.choice(ordinary) for _ in range(20)])
        if "\ufffd" not in text and not any(token.content in text for token in added.values()):
            yield text


def _no_place(tokenizer: Tokenizer, why: str) -> TokenizerError:
    return TokenizerError(
        f"GGUF has no tokenizer like this one: {why}",
        where=tokenizer.where,
        remedy="write a folder instead: pellucid convert MODEL FOLDER",
    )


def _special(tokenizer: Tokenizer, ends: Sequence[int]) -> dict[str, Any]:
    """Ids of named tokens, what stands around a text, and ends of an answer beside eos."""
    named = {theirs: value for ours, theirs in NAMES.items() if (value := getattr(tokenizer, ours)) is not None}
    before, after = tokenizer.around()
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if before not in ([], [bos]) or after not in ([], [eos]):
        raise _no_place(tokenizer, f"it puts {before} before a text and {after} after it, where bos and eos are known")
    if ends and eos is None:
        named["eos_token_id"] = eos = ends[0]
    others = [end for end in ends if end != eos]
    named |= dict(zip(("eot_token_id", "eom_token_id"), others, strict=False))
    if len(others) > 2:
        notice(f"{tokenizer.where}: of {len(ends)} tokens that end an answer, the file names {eos} and {others[:2]}")
    return named | {"add_bos_token": bool(before), "add_eos_token": bool(after)}


def _fit(written: dict[str, Any], num_rows: int, where: object) -> None:
    """As many tokens as the embedding table has rows: llama.cpp takes the one for the other."""
    tokens, types = written["tokens"], written["token_type"]
    if len(tokens) > num_rows:
        notice(
            f"{where}: the last {len(tokens) - num_rows} tokens have no row of the embedding table, and are left out"
        )
        if any(value >= num_rows for key, value in written.items() if key.endswith("_token_id")):
            raise TokenizerError("a special token has no row of the embedding table", where=where)
        kept = set(tokens[:num_rows])
        if merges := written.get("merges"):
            parts = [(merge[:1] + merge[1:].partition(" ")[0], merge[1:].partition(" ")[2]) for merge in merges]
            written["merges"] = [" ".join(pair) for pair in parts if kept.issuperset((*pair, "".join(pair)))]
        for key in ("tokens", "token_type", "scores"):
            if key in written:
                written[key] = written[key][:num_rows]
        return
    for place in range(len(tokens), num_rows):
        tokens.append(f"[PAD{place}]")
        types.append(UNUSED)
        if "scores" in written:
            written["scores"].append(NEVER)


def _of_json(tokenizer: JsonTokenizer) -> dict[str, Any]:
    spec = tokenizer.to_json()
    model = spec["model"]
    if model["type"] != "BPE":
        raise _no_place(tokenizer, f"its model is {model['type']}")
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(name):
            raise _no_place(tokenizer, f"{name} = {model[name]!r}")
    merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    added, vocab = tokenizer.added_tokens_decoder, tokenizer.get_vocab()
    tokens, types = _listed(vocab, added)
    if not tokenizer._is_byte_level:
        return _by_score(tokenizer, model, merges, tokens, types)
    return {
        "model": "gpt2",
        "pre": pre_tokenizer_name(tokenizer),
        "tokens": tokens,
        "token_type": types,
        "merges": [" ".join(merge) for merge in merges],
    }


def _listed(vocab: Mapping[str, int], added: Mapping[int, Any]) -> tuple[list[str], list[int]]:
    """Tokens and their types by id; a gap is a token that is never used."""
    size = 1 + max(vocab.values())
    tokens, types = [f"[PAD{place}]" for place in range(size)], [UNUSED] * size
    for token, place in vocab.items():
        tokens[place], types[place] = token, NORMAL
    for place, token in added.items():
        tokens[place], types[place] = token.content, CONTROL if token.special else USER_DEFINED
    return tokens, types


def _by_score(
    tokenizer: JsonTokenizer,
    model: Mapping[str, Any],
    merges: list[tuple[str, ...]],
    tokens: list[str],
    types: list[int],
) -> dict[str, Any]:
    """A SentencePiece vocabulary in tokenizer.json's clothes: what is merged first has the highest score."""
    if not any("▁" in token for token in tokens):
        raise _no_place(tokenizer, "it is neither byte-level nor SentencePiece's")
    rank: dict[str, int] = {}
    for place, merge in enumerate(merges):
        rank.setdefault("".join(merge), place)
    for place, token in enumerate(tokens):
        if types[place] == NORMAL and model.get("byte_fallback") and byte_of_token(token) is not None:
            types[place] = BYTE
    unknown = model.get("unk_token")
    if unknown in tokens:
        types[tokens.index(unknown)] = UNKNOWN
    return {
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "scores": [-float(rank[token]) if token in rank else NEVER for token in tokens],
        "token_type": types,
        "add_space_prefix": tokenizer.add_prefix_space,
    }


def _of_sentencepiece(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    model = read_model(tokenizer.serialized)
    if model.kind != "bpe":
        raise _no_place(tokenizer, f"its model is SentencePiece's {model.kind}")
    if model.space_last or not model.escapes_spaces:
        raise _no_place(tokenizer, "its spaces are not written ▁ before a word")
    tokens = [piece.decode("utf-8") for piece, _, _ in model.pieces]
    scores, types = [score for _, score, _ in model.pieces], [kind for _, _, kind in model.pieces]
    for place, token in tokenizer.added_tokens_decoder.items():
        for gap in range(len(tokens), place + 1):
            tokens.append(f"[PAD{gap}]")
            scores.append(NEVER)
            types.append(UNUSED)
        tokens[place] = token.content
        if types[place] != UNKNOWN:
            types[place] = CONTROL if token.special else USER_DEFINED
    return {
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "scores": scores,
        "token_type": types,
        "add_space_prefix": tokenizer.add_prefix_space,
    }


def pre_tokenizer_name(tokenizer: JsonTokenizer) -> str:
    """llama.cpp's name of how the tokenizer cuts text into words. Raises: TokenizerError where it has none."""
    backend = tokenizer._backend
    ignore_merges = bool(getattr(backend.model, "ignore_merges", False))
    cut = _cuts(backend)
    named = {name: pre for name, pre in PRE_TOKENIZERS.items() if name != "default" and pre.bytes}
    fitting = [name for name, pre in named.items() if _cuts_of(pre) == cut]
    for name in fitting:
        if PRE_TOKENIZERS[name].ignore_merges == ignore_merges:
            return name
    if fitting:  # whether a word that is a token is taken whole makes no difference where merges make it; ids will tell
        return fitting[0]
    raise _no_place(tokenizer, "llama.cpp has no name for the pattern by which it cuts text into words")


def _cuts(backend: tokenizers.Tokenizer) -> list[list[str]]:
    """What the normalizer and the pre-tokenizer make of the probes."""
    cuts: list[list[str]] = []
    for text in PROBES:
        text = backend.normalizer.normalize_str(text) if backend.normalizer else text
        parts = backend.pre_tokenizer.pre_tokenize_str(text) if backend.pre_tokenizer else [(text, (0, 0))]
        cuts.append([part for part, _ in parts])
    return cuts


@cache
def _cuts_of(pre: PreTokenizer) -> list[list[str]]:
    return _cuts(build_bpe({to_chars(bytes([byte])): byte for byte in range(256)}, [], pre, "probe"))
