"""A model's name → where it lies on disk: a folder (of a run that is not done, its newest step), a file, a catalogue
alias, another program's model, or a hub id, in that order; but what would have to be fetched comes after what another
program has here under the same name.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from pellucid.base.errors import ModelNotFoundError
from pellucid.base.notice import notice
from pellucid.base.typed import shown
from pellucid.checkpoint.sources.catalogue import Entry, fetch_entry, find_entry, names
from pellucid.checkpoint.sources.elsewhere import find_elsewhere
from pellucid.checkpoint.sources.hub import USUAL, Access, HubName, fetch
from pellucid.checkpoint.sources.runs import newest_step

SUFFIXES = (".gguf", ".safetensors", ".bin")
EXPECTED = "a folder, a .gguf, .safetensors or .bin file, a name from `pellucid list`, or a hub id (org/name) or link"


def resolve(
    name: str | os.PathLike[str],
    *,
    offline: bool = False,
    progress: bool | None = None,
    weights: bool = True,
    access: Access = USUAL,
) -> Path:
    """The folder or file that ``name`` stands for, fetched if need be.

    ``offline`` forbids the network. ``progress``: a bar on stderr; None, where that is a terminal. ``weights=False``,
    for a tokenizer or a config, spares the weights of a hub id. ``access``: how to go to the hub; its ``subfolder``
    is a part of a folder on disk, too.

    Raises: ModelNotFoundError that suggests what may have been meant.
    """
    text = os.fspath(name)
    if not text.strip():
        raise _error(text, "no model is named", [])  # else it would be the folder that we are in
    path = Path(text)
    try:
        path = path.expanduser()
        here = path.exists()
    except (OSError, RuntimeError) as error:  # a name too long for the system; ~user of nobody
        why = (error.strerror or "") if isinstance(error, OSError) else str(error)
        raise ModelNotFoundError(f"there is no such file: {why}", where=shown(text), expected=EXPECTED) from None
    if here:
        inside = _inside(path, access.subfolder)
        return (newest_step(inside) if inside.is_dir() else None) or inside
    if isinstance(name, os.PathLike) or _is_a_path(text):
        raise _no_such_file(text, path)
    entry = find_entry(text)
    if entry and access != USUAL:
        return _by_alias(entry, access, weights=weights, offline=offline, progress=progress)
    if access == USUAL and (entry is None or not entry.is_cached()) and (found := find_elsewhere(text)):
        notice(f"{text}: the model that {found.program} has here, {found.path}")
        return found.path
    if entry:
        return fetch_entry(entry, weights=weights, offline=offline, progress=progress)
    if _looks_like_a_path(text):
        raise _no_such_file(text, path)
    if hub := HubName.parse(text):
        return fetch(hub, weights=weights, offline=offline, progress=progress, access=access)
    raise _error(text, "there is no model of that name", get_close_matches(text.lower(), names(), 3, 0.5))


def _inside(path: Path, subfolder: str) -> Path:
    inside = path / subfolder
    if subfolder and not inside.exists():
        raise _no_such_file(str(inside), inside)
    return inside


def _by_alias(entry: Entry, access: Access, *, weights: bool, offline: bool, progress: bool | None) -> Path:
    """A model of the catalogue, of the hub's with these ways to go there. Raises: ModelNotFoundError for another."""
    if isinstance(entry.source, HubName):
        return fetch(entry.source, weights=weights, offline=offline, progress=progress, access=access)
    if access.cache_dir is not None or access.subfolder:
        raise ModelNotFoundError(
            "the model is no repository of the hub: it has no subfolder, and is kept in a cache of its own",
            where=repr(entry.name),
            received="cache_dir" if access.cache_dir is not None else "subfolder",
            remedy="set PELLUCID_CACHE to keep them elsewhere, and leave the argument out",
        )
    return fetch_entry(entry, weights=weights, offline=offline, progress=progress)


def _is_a_path(text: str) -> bool:
    return text.startswith(("/", ".", "~")) or "\\" in text


def _looks_like_a_path(text: str) -> bool:
    """Whether the text is meant for a path, and cannot be a hub id (``org/name:file.gguf`` is one)."""
    if HubName.parse(text) is None:
        return "/" in text or (text.endswith(SUFFIXES) and ":" not in text)
    # org/name/file.gguf is a file of the hub, unless org is a folder that is here
    return text.endswith(SUFFIXES) and ":" not in text and (text.count("/") < 2 or Path(text.split("/")[0]).is_dir())


def _no_such_file(text: str, path: Path) -> ModelNotFoundError:
    """An error that goes by what is in the nearest folder that there is."""
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    try:
        present = [entry.name for entry in missing.parent.iterdir()]
    except OSError:
        present = []
    close = [str(missing.with_name(match)) for match in get_close_matches(missing.name, present, 3, 0.5)]
    what = "there is no such file or folder" if missing == path else f"there is no such folder: {missing}"
    return _error(text, what, close)


def _error(text: str, what: str, close: list[str]) -> ModelNotFoundError:
    return ModelNotFoundError(
        what, where=repr(text), expected=EXPECTED, remedy=f"did you mean {' or '.join(close)}?" if close else None
    )
