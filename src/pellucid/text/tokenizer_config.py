"""The files beside a vocabulary: tokenizer_config.json, special and added tokens, chat templates; read as one config.

``chat_template.jinja`` and ``additional_chat_templates/*.jinja`` beat the config's templates, as in transformers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pellucid.base.errors import TokenizerError
from pellucid.base.files import atomic_write, write_json
from pellucid.base.typed import is_real, is_whole, shown
from pellucid.text.added_tokens import AddedToken, as_added_token
from pellucid.text.backend import Backend
from pellucid.text.config_keys import name_unread_keys
from pellucid.text.special_tokens import NAMES
from pellucid.text.tokenizer_files import read_json, read_text

TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_MAP_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
CHAT_TEMPLATE_FOLDER = "additional_chat_templates"
GENERATION_CONFIG_FILE = "generation_config.json"


def get_tokenizer_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """tokenizer_config.json of a folder (or the file itself) as it is; ``{}`` where there is none, as in transformers.

    Raises: TokenizerError where it is no JSON object.
    """
    path = Path(path)
    file = path / TOKENIZER_CONFIG_FILE if path.is_dir() else path
    return read_json(file) if file.is_file() else {}


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """All that the folder says about its tokenizer beside the vocabulary.

    ``added_tokens_decoder`` becomes ``{id: AddedToken}``, ``chat_template`` a string, a dict by name, or None, and
    ``stop_token_ids`` the generation config's ends, if it names any.

    Raises: TokenizerError where a file contradicts its format.
    """
    where = folder / TOKENIZER_CONFIG_FILE
    config = _without_empty(get_tokenizer_config(folder))
    _check(config, where)
    name_unread_keys(config, where)
    if "added_tokens_decoder" in config:
        config["added_tokens_decoder"] = _added_tokens(config["added_tokens_decoder"], where)
    else:
        if (folder / SPECIAL_TOKENS_MAP_FILE).is_file():
            special = _without_empty(read_json(folder / SPECIAL_TOKENS_MAP_FILE))
            _check(special, folder / SPECIAL_TOKENS_MAP_FILE)
            name_unread_keys(special, folder / SPECIAL_TOKENS_MAP_FILE)
            config |= special
        if (folder / ADDED_TOKENS_FILE).is_file():
            config["added_tokens_decoder"] = _legacy_added_tokens(folder / ADDED_TOKENS_FILE, config)
    config["chat_template"] = _chat_template(folder, config.get("chat_template"), where)
    if stops := _stop_token_ids(folder):
        config["stop_token_ids"] = stops
    return config


def _without_empty(config: dict[str, Any]) -> dict[str, Any]:
    """The config without tokens that have no character: such a name means none, or the vocabulary's own."""

    def empty(token: Any) -> bool:
        return token == "" or (isinstance(token, Mapping) and token.get("content") == "")

    kept = {name: value for name, value in config.items() if not (name.endswith("_token") and empty(value))}
    for name in ("extra_special_tokens", "additional_special_tokens", "model_specific_special_tokens"):
        listed = kept.get(name)
        if isinstance(listed, list):
            kept[name] = [token for token in listed if not empty(token)]
        elif isinstance(listed, dict):
            kept[name] = {key: token for key, token in listed.items() if not empty(token)}
    return kept


def _check(config: Mapping[str, Any], where: Path) -> None:
    """Values of the wrong kind are found here, where the file can be named."""
    for name in NAMES:
        if config.get(name) is not None:
            as_added_token(config[name], where)
    for name in ("extra_special_tokens", "additional_special_tokens", "model_specific_special_tokens"):
        listed = config.get(name) or []
        if not isinstance(listed, (list, dict)):
            raise TokenizerError(f"{name} must be a list of tokens", where=where, received=repr(listed)[:80])
        for token in listed.values() if isinstance(listed, dict) else listed:
            as_added_token(token, where)
    for name in ("padding_side", "truncation_side"):
        if config.get(name) not in (None, "left", "right"):
            raise TokenizerError(
                f"{name} is unknown", where=where, expected="left or right", received=shown(config[name])
            )
    kind = config.get("tokenizer_class")
    if kind is not None and not isinstance(kind, str):
        raise TokenizerError("tokenizer_class must be a name", where=where, received=shown(kind))
    lists: tuple[tuple[str, Callable[[object], bool], str], ...] = (
        ("model_input_names", lambda one: isinstance(one, str), "names"),
        ("stop_token_ids", is_whole, "token ids"),
    )
    for name, test, words in lists:
        listed = config.get(name) or []
        if not isinstance(listed, list) or not all(map(test, listed)):
            raise TokenizerError(f"{name} must be a list of {words}", where=where, received=shown(listed))
    for name in ("model_max_length", "max_len"):  # transformers writes 10^30 for "no limit", as a whole number
        length = config.get(name)
        if length is not None and not (is_real(length) and length > 0):
            raise TokenizerError(f"{name} must be a positive number", where=where, received=shown(length))


def _added_tokens(listed: Any, where: object) -> dict[int, AddedToken]:
    if not isinstance(listed, Mapping) or not all(str(i).isdecimal() for i in listed):
        raise TokenizerError("added_tokens_decoder must map ids to tokens", where=where, received=shown(listed))
    tokens = {_token_id(int(i[:20]), where): as_added_token(token, where) for i, token in listed.items()}
    return {i: token for i, token in tokens.items() if token.content}


def _token_id(token_id: object, where: object) -> int:
    if not isinstance(token_id, int) or isinstance(token_id, bool) or not 0 <= token_id < 2**31:
        raise TokenizerError(
            "added tokens must map to ids", where=where, expected="whole numbers below 2^31", received=shown(token_id)
        )
    return token_id


def _legacy_added_tokens(path: Path, config: Mapping[str, Any]) -> dict[int, AddedToken]:
    """added_tokens.json: token → id; those that the config names are special."""
    listed = read_json(path)
    for token_id in listed.values():
        _token_id(token_id, path)
    values = [value for name, value in config.items() if name.endswith("_token")]
    values += list(config.get("extra_special_tokens") or config.get("additional_special_tokens") or [])
    special = {
        value.get("content") if isinstance(value, Mapping) else value
        for value in values
        if isinstance(value, (str, Mapping))
    }
    return {i: as_added_token(token, path, special=token in special) for token, i in listed.items() if token}


def _chat_template(folder: Path, configured: Any, where: object) -> str | dict[str, str] | None:
    files = {"default": folder / CHAT_TEMPLATE_FILE} if (folder / CHAT_TEMPLATE_FILE).is_file() else {}
    files |= {file.stem: file for file in sorted((folder / CHAT_TEMPLATE_FOLDER).glob("*.jinja"))}
    if files:
        templates = {name: read_text(file) for name, file in files.items()}
        return templates["default"] if list(templates) == ["default"] else templates
    if configured is None or isinstance(configured, str):
        return configured
    if isinstance(configured, list) and all(isinstance(one, Mapping) for one in configured):
        configured = {one.get("name"): one.get("template") for one in configured}
    if not isinstance(configured, dict) or not all(
        isinstance(text, str) for pair in configured.items() for text in pair
    ):
        raise TokenizerError(
            "chat_template is neither a string nor a list of named ones", where=where, received=repr(configured)[:80]
        )
    return configured


def _stop_token_ids(folder: Path) -> list[int]:
    """generation_config.json's ``eos_token_id``: one id, or several."""
    path = folder / GENERATION_CONFIG_FILE
    if not path.is_file():
        return []
    ends = read_json(path).get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    return [end for end in ends if isinstance(end, int) and not isinstance(end, bool) and end >= 0]


def save_config(tokenizer: Backend, folder: Path) -> Iterable[Path]:
    """Write tokenizer_config.json and the chat templates; returns their paths."""
    templates = tokenizer.chat_template
    by_name = {"default": templates} if isinstance(templates, str) else dict(templates or {})
    for name in by_name:
        if not name or name != os.path.basename(name) or name.startswith("."):
            raise TokenizerError(
                "the name of a chat template cannot be a file's", where=tokenizer.where, received=repr(name)
            )
    written = {name: folder / CHAT_TEMPLATE_FOLDER / f"{name}.jinja" for name in by_name if name != "default"}
    if "default" in by_name:
        written["default"] = folder / CHAT_TEMPLATE_FILE
    for name, path in written.items():
        with atomic_write(path, "w") as file:
            file.write(by_name[name])
    path = folder / TOKENIZER_CONFIG_FILE
    write_json(path, json.loads(json.dumps(tokenizer.saved_config())))
    return [*written.values(), path]


def refuse_rivals(folder: Path, tokenizer: Backend) -> None:
    """Raises: TokenizerError where the folder already holds files that would be read instead of those about to be
    written.
    """
    rivals = ["tokenizer.json"] if tokenizer.vocabulary_file != "tokenizer.json" else []
    rivals += [CHAT_TEMPLATE_FILE] if tokenizer.chat_template is None else []
    present = [name for name in rivals if (folder / name).exists()]
    if present:
        raise TokenizerError(
            f"{', '.join(present)} of another tokenizer is there and would be read instead",
            where=folder,
            remedy="save to an empty folder, or remove it first",
        )
