"""Data sets of the Hugging Face hub, or folders in its layout, as one more source: ``hf:NAME[:CONFIG][:SPLIT]``.

The ``datasets`` library finds, downloads and keeps them (``HF_HOME``, ``HF_HUB_OFFLINE`` and the like are honoured;
since version 4 it executes no code of theirs). Here a split becomes a file of JSON lines in the cache, so that all that
follows knows one kind of source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pellucid.base.errors import ConfigError
from pellucid.base.files import atomic_write
from pellucid.checkpoint.sources.wheel import cache_folder

PREFIX = "hf:"


def fetch_dataset(name: str) -> Path:
    """The file of JSON lines behind ``hf:tatsu-lab/alpaca``, ``hf:wikitext:wikitext-2-raw-v1:test`` or
    ``hf:./folder:train``.

    One part after the name is a configuration or a split, whichever the data set has. Made anew when the data set
    changes. Raises: ConfigError without the library, or for a data set, configuration or split that is not there.
    """
    found, path, config, split = _opened(name)
    readable = re.sub(r"[^\w.-]+", "_", f"{path}-{config or 'default'}-{split}").strip("_.")
    file = cache_folder() / "datasets" / f"{readable}-{found._fingerprint}.jsonl"
    if not file.is_file():
        with atomic_write(file) as out:
            found.to_json(out, lines=True, force_ascii=False)
    return file


def stream_dataset(name: str) -> Iterator[tuple[Any, str]]:
    """The records of a data set as they arrive, none of it kept on the disk, and their places.

    Raises: ConfigError as ``fetch_dataset``.
    """
    found, *_ = _opened(name, streaming=True)
    for number, record in enumerate(found, 1):
        yield record, f"{name}, row {number}"


def _opened(name: str, **settings: Any) -> tuple[Any, str, str | None, str]:
    """The data set, and its path, configuration and split. Raises: ConfigError as ``fetch_dataset``."""
    try:
        import datasets  # type: ignore[import-not-found]
    except ImportError as error:
        raise ConfigError(
            f"{name} needs the datasets library: {error}", remedy="pip install 'pellucid[datasets]'"
        ) from None
    path, *parts = name.removeprefix(PREFIX).split(":")
    if not path or len(parts) > 2:
        raise ConfigError("no name of a data set", where=name, expected="hf:NAME[:CONFIG][:SPLIT]")
    try:
        config, split = _parts(datasets, path, parts)
        return datasets.load_dataset(path, config, split=split, **settings), path, config, split
    except (OSError, ValueError) as error:  # not found, no network, no such configuration or split
        raise ConfigError(f"the data set cannot be had: {error}", where=name) from None


def _parts(datasets: Any, path: str, parts: Sequence[str]) -> tuple[str | None, str]:
    """(configuration, split) of what was written after the name."""
    if len(parts) == 2:
        return parts[0] or None, parts[1] or "train"
    if not parts:
        return None, "train"
    configs = datasets.get_dataset_config_names(path)
    return (parts[0], "train") if parts[0] in configs else (None, parts[0])
