"""Settings that a call to ``from_pretrained`` makes on a tokenizer, in transformers' words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.arguments import refuse_unknown
from pellucid.text.special_tokens import NAMES
from pellucid.text.tokenizer import Tokenizer

SETTABLE = (
    *("padding_side", "truncation_side", "model_max_length", "clean_up_tokenization_spaces", "chat_template"),
    *("model_input_names", "split_special_tokens", "add_bos_token", "add_eos_token", *NAMES),
    *("additional_special_tokens", "extra_special_tokens"),
)
# How files are read is so here in any case, or changes nothing.
WITHOUT_EFFECT = ("use_fast", "config", "_from_pipeline", "device_map", "torch_dtype", "dtype", "fix_mistral_regex")
# What the files were made with; the same value is nothing new, another would need another tokenizer.
OF_THE_FILES = ("legacy", "add_prefix_space", "tokenizer_class", "tokenizer_type", "do_lower_case", "from_slow")
ELSEWHERE = dict.fromkeys(OF_THE_FILES, "set it in tokenizer_config.json: it is part of what the tokenizer is") | {
    "vocab_file": "name the folder that holds the files",
    "merges_file": "name the folder that holds the files",
    "tokenizer_file": "name the file itself: AutoTokenizer.from_pretrained('folder/tokenizer.json')",
}


def configured(tokenizer: Tokenizer, settings: Mapping[str, Any], name: str) -> Tokenizer:
    """The tokenizer with ``settings`` made on it; ``name``: what it was opened by.

    Raises: TypeError for a setting that there is not; TokenizerError for a value that cannot be.
    """
    tokenizer.name_or_path = name
    unknown = {}
    for setting, value in settings.items():
        if setting in WITHOUT_EFFECT:
            continue
        if setting in SETTABLE or hasattr(tokenizer, setting):
            _set(tokenizer, setting, value)
        elif not (setting in OF_THE_FILES and _is_so(tokenizer, setting, value)):
            unknown[setting] = value
    refuse_unknown("AutoTokenizer.from_pretrained", unknown, SETTABLE, ELSEWHERE)
    return tokenizer


def _set(tokenizer: Tokenizer, setting: str, value: Any) -> None:
    if setting in ("additional_special_tokens", "extra_special_tokens") or (setting in NAMES and value is not None):
        tokenizer.add_special_tokens({setting: value})
    else:
        setattr(tokenizer, setting, value)


def _is_so(tokenizer: Tokenizer, setting: str, value: Any) -> bool:
    return tokenizer.config.get(setting) == value
