"""Pre-tokenizers: the patterns that cut text into words before byte-level BPE, by the name GGUF files use for them.

Source: llama.cpp, ``src/llama-vocab.cpp`` (names and what they imply); the models' own tokenizer.json (the patterns).
"""

from __future__ import annotations

from dataclasses import dataclass

from pellucid.base.errors import TokenizerError

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_ENDS = r"\s+(?!\S)|\s+"
_SPACES = r"\s*[\r\n]+|" + _ENDS
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|" + _ENDS
_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}"
_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(upper: str, lower: str, after: str, digits: str, symbols: str) -> str:
    """Words that begin anew where a capital follows a small letter; ``after``: what may end them."""
    head = r"[^\r\n\p{L}\p{N}]?"
    return f"{head}{upper}*{lower}+{after}|{head}{upper}+{lower}*{after}|{digits}|{symbols}|{_SPACES}"


_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_TEKKEN = _cased(_UPPER, _LOWER, "", r"\p{N}", _SLASHES)
_GPT4O = _cased(_UPPER, _LOWER, f"{_CONTRACTION}?", r"\p{N}{1,3}", _SLASHES)
_NO_HAN = r"&&[^\p{Han}]]"
_KIMI = r"\p{Han}+|" + _cased(_UPPER[:-1] + _NO_HAN, _LOWER[:-1] + _NO_HAN, f"{_CONTRACTION}?", r"\p{N}{1,3}", _SYMBOLS)
_PUNCTUATED = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"""
)
_HAN_OR_KANA = "[一-龥\u3040-ゟ゠-ヿ]+"
_DEEPSEEK3 = (r"\p{N}{1,3}", _HAN_OR_KANA, rf"{_PUNCTUATED}[\r\n]*|{_SPACES}")
_CJK = "[一-龥ࠀ-一가-\ud7ff]+"
_DEEPSEEK_LETTERS = (  # those that have a case
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-"
    "\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-"
    "\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-"
    "\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-"
    "\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-"
    "\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-"
    "\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-"
    "\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_DEEPSEEK_LLM = (
    r"[\r\n]", rf"\s?[{_DEEPSEEK_LETTERS}]+", "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", _CJK, r"\p{N}+",
)  # fmt: skip
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]")
_FALCON = (r"[\p{P}\$\+<=>\^~\|`]+", GPT2_WORDS, r"[0-9][0-9][0-9]")
_SENTENCES = " ?[^(\\s|.,!?…。，、।۔،)]+"  # BLOOM's: a word and the space before it, without punctuation
_JAIS2 = (
    rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|\s*[\r\n]+|"
    + "".join(rf"\s{{{count}}}(?!\S)|" for count in (512, 256, 128, 64, 32, 16, 8, 4))
    + r"\s{1,2}(?!\S)|\s{1}"
)
_BAILING = (
    rf"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{{L}}\p{{N}}]?+\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]++[\r\n]*|\s*[\r\n]|{_ENDS}"
)
_SEED = rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_EXAONE_MOE = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}|"
    rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|{_ENDS}"
)
_CHAMELEON = (
    r"<sentinel:[0-9]+>", r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", r"\p{N}",
    r"[\p{P}!-/:-@\[-`{-~]", GPT2_WORDS,
)  # fmt: skip
_AFMOE = (
    r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",  # threes from the right
    "[一-鿿㐀-䶿豈-\ufaff\u3040-ゟ゠-ヿ･-ﾟ⼀-\u2fdfเ-\u0e7f\u0e80-\u0effក-\u17ffက-႟ꩠ-ꩿꧠ-\ua9ff가-\ud7afᄀ-ᇿ]+",
    rf"{_PUNCTUATED}[\r\n]*|{_SPACES}",
)
_YOUTU = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-\u303f︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u3040-ゟ゠-ヿ]+"
_LINES = r"[^\n]+|[\n]+"


@dataclass(frozen=True, kw_only=True)
class PreTokenizer:
    """``patterns`` are applied in turn: each isolates its matches within what the ones before left."""

    patterns: tuple[str, ...]
    nfc: bool = False  # the model's tokenizer normalizes to NFC first
    ignore_merges: bool = False  # a word that is a token is taken whole
    add_bos: bool = False  # where the file does not say
    bytes: bool = True  # words are spelled in the byte-level alphabet; else as they are, spaces as ▁, with byte tokens


def _same(names: str, pre: PreTokenizer) -> dict[str, PreTokenizer]:
    return dict.fromkeys(names.split(), pre)


_BY_LLAMA3 = PreTokenizer(patterns=(_LLAMA3,), ignore_merges=True, add_bos=True)
_BY_GPT2 = PreTokenizer(patterns=(GPT2_WORDS,))
# NFC is not llama.cpp's but the models' own: of Qwen, of GPT-NeoX's tokenizer (MPT, OLMo) and of Cohere's.
PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    **_same("gpt-2 phi-2 gigachat a.x-4.0 mellum modern-bert exaone4 jais trillion granite-docling", _BY_GPT2),
    **_same("jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe", _BY_GPT2),
    **_same("mpt olmo", PreTokenizer(patterns=(GPT2_WORDS,), nfc=True)),
    **_same(
        "smollm starcoder refact codeshell exaone minerva-7b mellum2", PreTokenizer(patterns=(r"\p{N}", GPT2_WORDS))
    ),
    "command-r": PreTokenizer(patterns=(r"\p{N}", GPT2_WORDS), nfc=True),
    **_same("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano", _BY_LLAMA3),
    **_same("glm4 glm5", PreTokenizer(patterns=(_LLAMA3,), ignore_merges=True)),
    **_same("chatglm-bpe dbrx smaug-bpe", PreTokenizer(patterns=(_LLAMA3,))),
    **_same("qwen2 deepseek-r1-qwen", PreTokenizer(patterns=(_QWEN2,), nfc=True)),
    **_same("stablelm2 hunyuan solar-open grok-2 megrez kormo f2llmv2", PreTokenizer(patterns=(_QWEN2,))),
    "qwen35": PreTokenizer(patterns=(_QWEN35,)),  # its tokenizer.json has NFC; llama.cpp's own test ids have not
    "tekken": PreTokenizer(patterns=(_TEKKEN,), ignore_merges=True, add_bos=True),
    **_same("gpt-4o llama4 kanana2 talkie minimax-m2", PreTokenizer(patterns=(_GPT4O,))),
    "granite-embed-multi-97m": PreTokenizer(patterns=(_GPT4O,), ignore_merges=True),
    **_same("tiny_aya cohere2moe", PreTokenizer(patterns=(r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O))),
    "kimi-k2": PreTokenizer(patterns=(_KIMI,)),
    **_same("deepseek-v3 hunyuan-dense joyai-llm hy_v4", PreTokenizer(patterns=_DEEPSEEK3)),
    "deepseek-llm": PreTokenizer(patterns=_DEEPSEEK_LLM),
    "deepseek-coder": PreTokenizer(patterns=_DEEPSEEK_CODER),
    "spark2_5": PreTokenizer(
        patterns=(r"\p{N}{1,3}", _HAN_OR_KANA, rf"{_PUNCTUATED}|[\r\n]|{_ENDS}", r"\p{N}"),
    ),
    "youtu": PreTokenizer(
        patterns=(_YOUTU, _cased(_UPPER, _LOWER, f"{_CONTRACTION}?", r"\p{N}", _SLASHES)), ignore_merges=True
    ),
    "falcon": PreTokenizer(patterns=_FALCON),
    **_same("poro-chat bloom gpt3-finnish", PreTokenizer(patterns=(_SENTENCES,))),
    "viking": PreTokenizer(patterns=(_SENTENCES, r"\p{N}")),
    "jais-2": PreTokenizer(patterns=(_JAIS2,)),
    "chameleon": PreTokenizer(patterns=_CHAMELEON, add_bos=True),
    "superbpe": PreTokenizer(patterns=(r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    **_same("bailingmoe bailingmoe2 llada-moe", PreTokenizer(patterns=(_BAILING,))),
    "seed-coder": PreTokenizer(patterns=(_SEED,)),
    "ufakzeka": PreTokenizer(patterns=(_QWEN2.removeprefix(f"{_CONTRACTION}|"),)),
    "afmoe": PreTokenizer(patterns=_AFMOE),
    "laguna": PreTokenizer(patterns=(_LINES, _QWEN2)),
    "exaone-moe": PreTokenizer(patterns=(_EXAONE_MOE,)),
    "minicpm5": PreTokenizer(patterns=(r"\p{N}{1,3}", _LLAMA3.replace("{1,3}", "+")), ignore_merges=True),
    **_same("gemma4 granite-embed-multi-311m", PreTokenizer(patterns=(_LINES,), add_bos=True, bytes=False)),
    "sarvam-moe": PreTokenizer(patterns=(_LINES,), bytes=False),
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
