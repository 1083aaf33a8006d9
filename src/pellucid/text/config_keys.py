"""The keys of tokenizer_config.json and special_tokens_map.json: read, known to change nothing here, or named.

A key that nobody reads may be why ids differ from the model's, so it is said once on stderr, and so is a wish that
another file of the folder decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pellucid.base.notice import notice
from pellucid.text.special_tokens import NAMES

READ = {
    *NAMES, "additional_special_tokens", "extra_special_tokens", "added_tokens_decoder", "chat_template",
    "model_max_length", "max_len", "padding_side", "truncation_side", "clean_up_tokenization_spaces",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", "split_special_tokens",
    "model_input_names", "tokenizer_class", "add_bos_token", "add_eos_token", "add_prefix_space", "legacy",
    "model_specific_special_tokens", "stop_token_ids", "encode_special_tokens", "llama2c",
}  # fmt: skip
# Where files come from, what other classes and other commands of transformers read, and what was true of the slow
# tokenizers alone. None of them changes an id or a text of transformers 5's tokenizer of the same folder.
HARMLESS = {
    "name_or_path", "auto_map", "backend", "is_local", "local_files_only", "processor_class", "transformers_version",
    "tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file", "added_tokens_file", "files_loaded",
    "fast_tokenizer_files", "use_fast", "from_slow", "init_inputs", "tokenizer_type", "verbose", "device_map",
    "cache_dir", "use_default_system_prompt", "spaces_between_special_tokens", "trim_offsets", "pad_token_type_id",
    "pad_to_multiple_of", "max_length", "stride", "truncation_strategy", "truncation", "padding",
    "return_token_type_ids", "response_template", "response_schema", "chat_control_tokens", "fix_mistral_regex",
    "additional_special_tokens_ids",
    "vocab_size", "is_fast", "model_type", "num_additional_tokens", "_commit_hash", "trust_remote_code", "tags",
    "do_lower_case", "remove_space", "keep_accents", "strip_accents", "tokenize_chinese_chars", "do_basic_tokenize",
    "never_split", "sp_model_kwargs", "errors",
}  # fmt: skip
# Harmless at these values, which are the ones that transformers 5 acts on; at another they ask for what is not done.
_ONLY_AT: Mapping[str, tuple[Any, ...]] = {
    "sp_model_kwargs": (None, {}),
    "errors": (None, "replace"),
}


def name_unread_keys(config: Mapping[str, Any], where: Path) -> None:
    """Say which keys of the file are not read, and which values ask for what is not done."""
    unread = [key for key, value in config.items() if not _is_known(key, value)]
    unread += [f"{key}={config[key]!r}"[:60] for key, fine in _ONLY_AT.items() if config.get(key) not in fine]
    if unread:
        notice(f"{where}: nothing here reads {', '.join(sorted(unread))}; they have no effect")


def _is_known(key: str, value: Any) -> bool:
    if key in READ or key in HARMLESS or key.startswith("__") or key.endswith(("_token_id", "_token_ids")):
        return True
    return key.endswith("_token") and (value is None or isinstance(value, (str, Mapping)))  # a token of the model's own


def name_overruled(config: Mapping[str, Any], where: object, facts: Mapping[str, bool | None]) -> None:
    """Say which wishes of the config the vocabulary's own file decides otherwise. ``facts``: what it does, if known."""
    for key, fact in facts.items():
        wish = config.get(key)
        if isinstance(wish, bool) and fact is not None and wish != fact:
            does = "does so" if fact else "does not"
            notice(
                f"{where}: tokenizer_config.json's {key}={str(wish).lower()} is without effect: this tokenizer {does}"
            )
