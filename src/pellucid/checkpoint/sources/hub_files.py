"""Which files of a hub repository make up the model: never code, never a second copy of the weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NoReturn

from pellucid.base.errors import ModelNotFoundError
from pellucid.checkpoint.find import INDEX, NAMES

# Beside the weights: what a model says of itself, and its tokenizer. All of it small, none of it code.
SMALL = (
    "config.json", "generation_config.json", "chat_template.jinja", "chat_template.json", "adapter_config.json",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "vocab.txt", "tekken.json", "tiktoken.model", "qwen.tiktoken", "ice_text.model",
)  # fmt: skip
_PART = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)


@dataclass(frozen=True)
class Needed:
    """``small`` are fetched first, so that where all ``weights`` are, nothing is missing. ``main``: the GGUF file to
    open; None where the folder is the model.
    """

    small: list[str]
    weights: list[str]
    main: str | None = None


def needed(
    names: Collection[str],
    shards: Callable[[str], Collection[str]],
    where: object,
    pick: str | None = None,
    with_weights: bool = True,
) -> Needed:
    """The files of a repository that holds ``names`` (paths with ``/``).

    ``shards(index)`` gives the files that an index of weights names. ``pick`` is a GGUF file, or a word of its name
    (``Q4_K_M``). Without it, what transformers would take is taken: safetensors, else ``.bin``; else the one GGUF file.

    Raises: ModelNotFoundError where there is no such file, or several.
    """
    small = [name for name in SMALL if name in names]
    ggufs = [name for name in sorted(names) if name.lower().endswith(".gguf") and "mmproj" not in name.lower()]
    if pick is not None:
        return _gguf([], _picked(ggufs, pick, where), where)
    weights = next((name for name in NAMES if name in names), None)
    if weights is None and ggufs:
        return _gguf(small, _only(ggufs, where), where)
    if not with_weights:
        return Needed(small, [])
    if weights is None and "adapter_model.safetensors" in names:
        return Needed(small, ["adapter_model.safetensors"])
    if weights is None:
        raise ModelNotFoundError(
            "the repository holds no weights that we can read",
            where=where,
            expected=" or ".join([*NAMES, "a .gguf file"]),
            received=_some(names),
        )
    if not weights.endswith(INDEX):
        return Needed(small, [weights])
    parts = sorted(set(shards(weights)))
    if absent := [part for part in parts if part not in names or "/" in part]:
        raise ModelNotFoundError(
            f"{weights} names a file that the repository does not hold", where=where, received=absent[0]
        )
    return Needed([*small, weights], parts)


def _gguf(small: list[str], parts: list[str], where: object) -> Needed:
    part = _PART.match(parts[0])
    if part and len(parts) != int(part[3]):
        raise ModelNotFoundError(
            "a part of the model is missing", where=where, expected=f"{int(part[3])} files", received=_some(parts)
        )
    return Needed(small, parts, main=parts[0])


def _models(ggufs: list[str]) -> dict[str, list[str]]:
    """Each GGUF model's name, without its part number -> its files, in order."""
    models: dict[str, list[str]] = {}
    for name in ggufs:
        part = _PART.match(name)
        models.setdefault(f"{part[1]}.gguf" if part else name, []).append(name)
    return models


def _only(ggufs: list[str], where: object) -> list[str]:
    models = _models(ggufs)
    if len(models) > 1:
        _choose(models, where, "the repository holds several models")
    return next(iter(models.values()))


def _picked(ggufs: list[str], pick: str, where: object) -> list[str]:
    models = _models(ggufs)
    for model, parts in models.items():
        if pick == model or pick in parts:
            return parts
    word = re.compile(rf"(^|[-._/]){re.escape(pick)}([-./]|$)", re.IGNORECASE)
    matching = {model: parts for model, parts in models.items() if word.search(model)}
    if len(matching) != 1:
        _choose(
            matching or models,
            where,
            f"{pick!r} is the name of {'several' if matching else 'no'} .gguf files here",
            pick,
        )
    return next(iter(matching.values()))


def _choose(models: dict[str, list[str]], where: object, what: str, pick: str = "") -> NoReturn:
    close = get_close_matches(pick, models, 1, 0.4) or list(models)[:1]
    repository = str(where).removesuffix(f":{pick}")
    raise ModelNotFoundError(
        what, where=where, received=_some(models), remedy=f"name one: {repository}:{close[0]}" if close else None
    )


def _some(names: Collection[str], most: int = 8) -> str:
    return (
        ", ".join(sorted(names)[:most]) + (f", … ({len(names) - most} more)" if len(names) > most else "")
        or "an empty repository"
    )
