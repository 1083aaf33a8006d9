"""What a tokenizer's class says beside its files: how ``add_prefix_space`` acts, whose rule the ends are, its names.

transformers builds the pipeline of some classes anew from the config, and takes others from tokenizer.json as it is.
What a config sets is set here on the pipeline that the file has; a file that cuts words otherwise than its class would
(SmolLM's digits under ``GPT2Tokenizer``) keeps its own way, with which the model was trained.

Source: transformers 5, ``models/auto/tokenization_auto.py`` (which class), ``models/*/tokenization_*.py`` (its doings).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pellucid.text.readers.pre_tokenizers import GPT2_WORDS, PRE_TOKENIZERS

if TYPE_CHECKING:
    import tokenizers


@dataclass(frozen=True, kw_only=True)
class TokenizerClass:
    """One class. ``names``: its special tokens where the config names none and the vocabulary has them."""

    prefix_space: Literal["byte level", "metaspace"] | None = None  # the stage that add_prefix_space acts on
    legacy: bool = False  # metaspace: config's ``legacy`` decides whether each stretch of text gets a space
    ends: tuple[bool, bool] | None = None  # (BOS, EOS) whatever tokenizer.json adds; None: what it adds
    names: Mapping[str, str] = field(default_factory=dict)
    words: str | None = None  # the pre-tokenizer of vocab.json + merges.txt
    cuts: tuple[str, ...] | None = None  # the patterns by which transformers cuts, whatever tokenizer.json says
    padding_side: Literal["left", "right"] = "right"


_LLAMA_NAMES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
_END = "<|endoftext|>"
_GPT2_NAMES = {"unk_token": _END, "bos_token": _END, "eos_token": _END}
_GPT2_CUTS = PRE_TOKENIZERS["gpt-2"].patterns
_QWEN_NAMES = {"unk_token": _END, "eos_token": _END, "pad_token": _END}
# From the file alone: what is not listed below, and these names for it.
BACKEND = TokenizerClass()
CLASSES: dict[str, TokenizerClass] = {
    **dict.fromkeys(("PreTrainedTokenizer", "PythonBackend", "TokenizersBackend"), BACKEND),
    "GPT2Tokenizer": TokenizerClass(prefix_space="byte level", names=_GPT2_NAMES, words="gpt-2", cuts=_GPT2_CUTS),
    "Qwen2Tokenizer": TokenizerClass(
        prefix_space="byte level", names=_QWEN_NAMES, words="qwen2", cuts=PRE_TOKENIZERS["qwen2"].patterns
    ),
    "Qwen3_5Tokenizer": TokenizerClass(prefix_space="byte level", names=_QWEN_NAMES),
    "CodeGenTokenizer": TokenizerClass(prefix_space="byte level", names=_GPT2_NAMES, words="gpt-2", cuts=_GPT2_CUTS),
    "CohereTokenizer": TokenizerClass(prefix_space="byte level", words="command-r", padding_side="left"),
    "GPTNeoXTokenizer": TokenizerClass(
        prefix_space="byte level",
        names={**_GPT2_NAMES, "pad_token": "<|padding|>"},
        ends=(False, False),
        words="olmo",
        cuts=_GPT2_CUTS,
    ),
    "LlamaTokenizer": TokenizerClass(prefix_space="metaspace", legacy=True, names=_LLAMA_NAMES, padding_side="left"),
    "CodeLlamaTokenizer": TokenizerClass(
        prefix_space="metaspace", ends=(True, False), names=_LLAMA_NAMES, padding_side="left"
    ),
    "GemmaTokenizer": TokenizerClass(
        names={
            "unk_token": "<unk>",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        },
        padding_side="left",
    ),
}
# The class of a model_type: where the folder names none, and "" where it is the file's, whatever the folder names.
_OF_MODEL = {
    **dict.fromkeys(
        ("gpt2", "gpt_neo", "gptj", "codegen", "opt", "phi", "dbrx", "jais2", "starcoder2"), "GPT2Tokenizer"
    ),
    **dict.fromkeys(
        ("qwen2", "qwen2_moe", "qwen2_vl", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_vl"), "Qwen2Tokenizer"
    ),
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe", "qwen3_5_text", "qwen3_5_moe_text"), "Qwen3_5Tokenizer"),
    **dict.fromkeys(("cohere", "cohere2"), "CohereTokenizer"),
    **dict.fromkeys(
        ("gpt_neox", "falcon_mamba", "mamba", "mamba2", "mpt", "olmo", "olmoe", "rwkv", "xlstm"), "GPTNeoXTokenizer"
    ),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "recurrent_gemma"), "GemmaTokenizer"),
    **dict.fromkeys(
        ("mistral", "mistral3", "ministral", "mixtral", "pixtral", "granite", "granitemoe", "granitemoehybrid", "glm",
         "glm4", "glm4_moe", "gpt_bigcode", "kimi_linear", "mimo_v2_flash", "olmo2", "olmo3", "flex_olmo", "persimmon",
         "stablelm", "arctic", "ernie4_5", "internlm2", "internlm3", "jamba", "minicpm3", "nemotron", "phi3", "phimoe"),
        "",
    ),
}  # fmt: skip
_OVERRULED = (
    "qwen2",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
)  # model types under which folders name a wrong class


def class_of(config: Mapping[str, Any], model: Mapping[str, Any], *, byte_level: bool = False) -> TokenizerClass:
    """The class that transformers would choose by tokenizer_config.json and the model's config.json.

    ``byte_level``: tokenizer.json spells bytes, which Llama's class would not.
    """
    named = _name(config.get("tokenizer_class")) or _name(model.get("tokenizer_class"))
    registered = _OF_MODEL.get(str(model.get("model_type")))
    if registered is not None and (named is None or not registered or model.get("model_type") in _OVERRULED):
        named = registered
    kind = CLASSES.get(named or "", BACKEND)
    return BACKEND if byte_level and kind.prefix_space == "metaspace" else kind


def _name(value: Any) -> str | None:
    return value.removesuffix("Fast") if isinstance(value, str) and value else None


def with_names(config: Mapping[str, Any], kind: TokenizerClass, vocab: Mapping[str, int]) -> dict[str, Any]:
    """The config with the class's special tokens where it says nothing of them; null says that there is none."""
    return {**{name: token for name, token in kind.names.items() if token in vocab}, **config}


def shape(backend: tokenizers.Tokenizer, kind: TokenizerClass, config: Mapping[str, Any]) -> None:
    """Set what the config says on the stages that tokenizer.json gave the backend."""
    if kind.prefix_space == "byte level":
        for stage in _stages(backend.pre_tokenizer):
            if type(stage).__name__ == "ByteLevel":
                stage.add_prefix_space = bool(config.get("add_prefix_space"))
    elif kind.prefix_space == "metaspace" and _is_metaspace(backend):
        _set_metaspace(backend, kind, config)


def contradicts(backend: tokenizers.Tokenizer, kind: TokenizerClass) -> bool:
    """Whether transformers, which goes by the class, would cut text otherwise than the file does."""
    if kind.prefix_space == "metaspace":
        return not _is_metaspace(backend)
    return kind.cuts is not None and kind.cuts != tuple(_cuts(backend.pre_tokenizer))


def _cuts(stage: Any) -> Iterator[str]:
    """The patterns of a pre-tokenizer in order; the type of a stage that has none."""
    for part in parts_of(stage):
        match part:
            case {"type": "ByteLevel", "use_regex": False}:
                pass
            case {"type": "ByteLevel"}:
                yield GPT2_WORDS
            case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
                yield pattern
            case _:
                yield str(part.get("type"))


def is_byte_level(backend: tokenizers.Tokenizer) -> bool:
    """Whether words are spelled in the byte-level alphabet, on the way in or on the way out."""
    return any('"ByteLevel"' in _state(stage) for stage in (backend.pre_tokenizer, backend.decoder))


def _stages(stage: Any) -> Iterator[Any]:
    """A pre-tokenizer's stages, each as a handle through which it can be set."""
    if type(stage).__name__ == "Sequence" and hasattr(stage, "__getitem__"):
        for place in range(len(parts_of(stage))):
            yield from _stages(stage[place])
    elif stage is not None:
        yield stage


def parts_of(stage: Any) -> list[dict[str, Any]]:
    """What tokenizer.json says of a stage, or of each in a sequence; [] for none."""
    spec = json.loads(_state(stage))
    return next((spec[key] for key in ("pretokenizers", "normalizers", "decoders") if key in spec), [spec])


def _state(stage: Any) -> str:
    return "{}" if stage is None else stage.__getstate__().decode()


def _is_metaspace(backend: tokenizers.Tokenizer) -> bool:
    """Whether the file makes ``▁`` of spaces in one of the ways that are Llama's: a normalizer, or Metaspace."""
    kinds = {part.get("type") for stage in (backend.normalizer, backend.pre_tokenizer) for part in parts_of(stage)}
    return type(backend.model).__name__ == "BPE" and kinds - {None} <= {"Prepend", "Replace", "Metaspace"}


def _set_metaspace(backend: tokenizers.Tokenizer, kind: TokenizerClass, config: Mapping[str, Any]) -> None:
    from tokenizers import decoders, pre_tokenizers

    wish = config.get("add_prefix_space")
    adds = True if wish is None else bool(wish)
    scheme = "always" if kind.legacy and config.get("legacy") else "first"
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement="▁", prepend_scheme=scheme if adds else "never", split=False
    )
    strip = [decoders.Strip(" ", 1, 0)] if adds or not kind.legacy else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    backend.model.fuse_unk = True
    backend.model.byte_fallback = True
