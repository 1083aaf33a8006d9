"""Pre-tokenizers: the patterns that cut text into words before byte-level BPE, by the name GGUF files use for them.

Source: llama.cpp, ``src/llama-vocab.cpp`` (names and what they imply); the models' own tokenizer.json (the patterns).
"""

from __future__ import annotations

from dataclasses import dataclass

from pellucid.base.errors import TokenizerError

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_QWEN2 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
)
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    + _SPACES,
)
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]")


@dataclass(frozen=True, kw_only=True)
class PreTokenizer:
    """``patterns`` are applied in turn: each isolates its matches within what the ones before left."""

    patterns: tuple[str, ...]
    nfc: bool = False  # the model's tokenizer normalizes to NFC first
    ignore_merges: bool = False  # a word that is a token is taken whole
    add_bos: bool = False  # where the file does not say


PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo"), PreTokenizer(patterns=(GPT2_WORDS,))),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell"), PreTokenizer(patterns=(r"\p{N}", GPT2_WORDS))),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "lfm2"),
        PreTokenizer(patterns=(_LLAMA3,), ignore_merges=True, add_bos=True),
    ),
    **dict.fromkeys(("glm4", "chatglm-bpe", "dbrx", "smaug-bpe"), PreTokenizer(patterns=(_LLAMA3,))),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), PreTokenizer(patterns=(_QWEN2,), nfc=True)),
    **dict.fromkeys(("stablelm2", "hunyuan"), PreTokenizer(patterns=(_QWEN2,))),
    "tekken": PreTokenizer(patterns=(_TEKKEN,), ignore_merges=True, add_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4"), PreTokenizer(patterns=(_GPT4O,))),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense"), PreTokenizer(patterns=_DEEPSEEK3)),
    "default": PreTokenizer(patterns=_DEFAULT),
}


def pre_tokenizer(name: str, where: object) -> PreTokenizer:
    """Raises: TokenizerError that names a pre-tokenizer this version does not know: another would give wrong ids."""
    if name not in PRE_TOKENIZERS:
        raise TokenizerError(
            f"the pre-tokenizer {name!r} is unknown",
            where=where,
            expected=", ".join(sorted(PRE_TOKENIZERS)),
            remedy="load the tokenizer from the model's tokenizer.json instead",
        )
    return PRE_TOKENIZERS[name]
