"""From files to a tokenizer: look at what is there, and let the one backend that reads it do so."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pellucid.base.errors import ModelNotFoundError, TokenizerError
from pellucid.text.config_keys import name_overruled
from pellucid.text.readers.tokenizer_class import BACKEND, CLASSES, class_of, shape, with_names
from pellucid.text.tokenizer import Tokenizer
from pellucid.text.tokenizer_config import TOKENIZER_CONFIG_FILE, get_tokenizer_config, read_tokenizer_config
from pellucid.text.tokenizer_files import read_bytes, read_json, read_start

__all__ = ["TOKENIZER_CONFIG_FILE", "TOKENIZER_FILES", "get_tokenizer_config", "load_tokenizer"]

T = TypeVar("T", bound=Tokenizer)
_MAX_MODEL_BYTES = 64 * 2**20


def load_tokenizer(path: str | os.PathLike[str], *, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer of a folder, or of one file: one of ``TOKENIZER_FILES``, or llama2.c's ``tok*.bin``.

    ``vocab_size`` is the model's; llama2.c's files are checked against it. GGUF files, the catalogue and the hub are
    resolved above; no code from a folder is ever run.

    Raises: ModelNotFoundError where there is no such path; TokenizerError where there is no tokenizer, or a broken one.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path, vocab_size)
    if not path.is_file():
        raise ModelNotFoundError("no such file or folder", where=path)
    if path.suffix == ".bin":
        return _llama2c(path, vocab_size)
    reader = _READERS.get(path.name)
    if reader is None:
        raise TokenizerError("not a tokenizer's file", where=path, expected=f"{', '.join(_READERS)} or tok*.bin")
    return reader(path.parent, _config(path.parent))


def _load_folder(folder: Path, vocab_size: int | None) -> Tokenizer:
    config = _config(folder)
    for name, reader in _READERS.items():
        if (folder / name).is_file():
            return reader(folder, config)
    files = [*sorted(folder.glob("tok*.bin"))]
    if len(files) == 1:
        return _llama2c(files[0], vocab_size)
    raise TokenizerError(
        "there is no tokenizer" if not files else "there are several tokenizers",
        where=folder,
        expected=f"{', '.join(_READERS)} or tok*.bin",
        received=", ".join(file.name for file in files) or None,
        remedy="name the file" if files else "a checkpoint without its tokenizer: give the tokenizer's folder as well",
    )


def _config(folder: Path) -> dict[str, Any]:
    config = read_tokenizer_config(folder)
    kind = CLASSES.get(str(config.get("tokenizer_class")).removesuffix("Fast"), BACKEND)
    if "padding_side" not in config and kind.padding_side == "left":
        config["padding_side"] = "left"
    return config


def _model_config(folder: Path) -> dict[str, Any]:
    """config.json, for the class that it may name; one that is broken is for whoever opens the model to refuse."""
    try:
        return read_json(folder / "config.json")
    except TokenizerError:
        return {}


def _read_json(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    from pellucid.text.readers.tokenizer_json import JsonTokenizer

    return _told(JsonTokenizer.from_file(folder / "tokenizer.json", config, _model_config(folder)), config)


def _read_model(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    path = folder / "tokenizer.model"
    kind = config.get("tokenizer_class")
    if kind in ("ChatGLMTokenizer", "ChatGLM4Tokenizer"):
        from pellucid.text.readers import chatglm

        if kind == "ChatGLM4Tokenizer":
            return chatglm.load_chatglm4(path, config)
        return chatglm.ChatGLMTokenizer(read_bytes(path, _MAX_MODEL_BYTES), config, path)
    from pellucid.text.readers import ranks

    if ranks.are_ranks(read_start(path)):
        return ranks.load_ranks(path, ranks.LLAMA3, config)
    if config.get("llama2c"):
        from pellucid.text.readers.llama2c import Llama2cTokenizer

        return Llama2cTokenizer(read_bytes(path, _MAX_MODEL_BYTES), config, path)
    from pellucid.text.readers.sentencepiece_model import SentencePieceTokenizer

    return _told(SentencePieceTokenizer(read_bytes(path, _MAX_MODEL_BYTES), config, path), config)


def _read_vocab(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    from pellucid.text.readers.byte_level_bpe import build_bpe, read_merges, read_vocab
    from pellucid.text.readers.pre_tokenizers import PRE_TOKENIZERS
    from pellucid.text.readers.tokenizer_json import JsonTokenizer

    path = folder / "vocab.json"
    kind = class_of(config, _model_config(folder)) if config.get("tokenizer_class") else CLASSES["GPT2Tokenizer"]
    if kind.words is None:
        raise TokenizerError(
            f"vocab.json and merges.txt do not say how {config['tokenizer_class']} cuts text into words",
            where=folder,
            expected=" or ".join(name for name, known in CLASSES.items() if known.words),
            remedy="get the model's tokenizer.json, which does",
        )
    if not (folder / "merges.txt").is_file():
        raise TokenizerError("merges.txt is missing beside vocab.json", where=folder)
    vocab = read_vocab(path)
    backend = build_bpe(vocab, read_merges(folder / "merges.txt"), PRE_TOKENIZERS[kind.words], path)
    shape(backend, kind, config)
    tokenizer = JsonTokenizer(backend, with_names(config, kind, vocab), path, kind)
    tokenizer._add_ends(
        bool(config.get("add_bos_token")) and tokenizer.bos_token is not None,
        bool(config.get("add_eos_token")) and tokenizer.eos_token is not None,
    )
    return _told(tokenizer, config)


def _read_tekken(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    from pellucid.text.readers.tekken import load_tekken

    return load_tekken(folder / "tekken.json", config)


def _read_kimi(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    from pellucid.text.readers import ranks

    return ranks.load_ranks(folder / "tiktoken.model", ranks.KIMI, config)


def _read_qwen(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    from pellucid.text.readers import ranks

    return ranks.load_ranks(folder / "qwen.tiktoken", ranks.QWEN, config)


def _read_word_piece(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    from pellucid.text.readers.word_piece import load_word_piece

    return load_word_piece(folder / "vocab.txt", config)


def _read_ice_text(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    from pellucid.text.readers.ice_text import load_ice_text

    return load_ice_text(folder / "ice_text.model", config)


def _told(tokenizer: T, config: Mapping[str, Any]) -> T:
    """The tokenizer, after what the config asks of it in vain has been named."""
    facts = {name: getattr(tokenizer, name) for name in ("add_bos_token", "add_eos_token", "add_prefix_space")}
    name_overruled(config, tokenizer.where, facts)
    return tokenizer


def _llama2c(path: Path, vocab_size: int | None) -> Tokenizer:
    from pellucid.text.readers.llama2c import load_llama2c

    return load_llama2c(path, vocab_size)


_READERS: dict[str, Callable[[Path, Mapping[str, Any]], Tokenizer]] = {
    "tokenizer.json": _read_json,
    "tokenizer.model": _read_model,
    "vocab.json": _read_vocab,
    "tekken.json": _read_tekken,
    "tiktoken.model": _read_kimi,
    "qwen.tiktoken": _read_qwen,
    "vocab.txt": _read_word_piece,
    "ice_text.model": _read_ice_text,
}
TOKENIZER_FILES = tuple(_READERS)
