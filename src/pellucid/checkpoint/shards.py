"""A checkpoint in several files: the index that says where each tensor lies, and which files it may name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NoReturn

from pellucid.base.array import Array
from pellucid.base.errors import CheckpointError, WeightsError
from pellucid.base.files import read_json
from pellucid.checkpoint.lazy import Lazy


def joined(parts: Iterable[Mapping[str, Array]], where: object) -> Lazy:
    """Several mappings seen as one. Raises: WeightsError for a name that two of them hold."""
    make: dict[str, Callable[[], Array]] = {}
    for part in parts:
        for name in part:
            if name in make:
                raise WeightsError(
                    f"{name} is in two files of the checkpoint", where=where, remedy="remove the files of an older save"
                )
            make[name] = partial(part.__getitem__, name)
    return Lazy(make)


def open_sharded(index: Path, open_file: Callable[[Path], Mapping[str, Array]]) -> tuple[Lazy, list[Path]]:
    """The files that an index names, opened and joined; and their paths.

    Raises: CheckpointError for an index that is malformed or points outside its folder; WeightsError where index and
    files disagree about what lies where.
    """
    file_of = read_index(index)
    names_in: dict[str, set[str]] = {}
    for name, file in file_of.items():
        names_in.setdefault(file, set()).add(name)
    paths = [inside(index.parent, file, index) for file in sorted(names_in)]
    parts = [open_file(path) for path in paths]
    for (file, named), part in zip(sorted(names_in.items()), parts, strict=True):
        if absent := named - part.keys():
            _disagree(f"{file} lacks {min(absent)}, which the index places there", index)
        if extra := part.keys() - named:
            _disagree(f"{file} holds {min(extra)}, which the index does not place there", index)
    return joined(parts, index), paths


def _disagree(what: str, index: Path) -> NoReturn:
    remedy = "index and files are of different saves, or a download is incomplete; fetch the checkpoint again"
    raise WeightsError(what, where=index, remedy=remedy)


def read_index(path: Path) -> dict[str, str]:
    """``weight_map`` of a ``*.index.json``: tensor name → file name, unchecked against the disk."""
    weight_map = read_json(path).get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(file, str) for file in weight_map.values())
    ):
        raise CheckpointError(
            "weight_map must name a file for each tensor", where=path, remedy="the index is damaged; download it again"
        )
    return weight_map


def inside(folder: Path, name: str, where: object) -> Path:
    """``folder / name`` for a name read from a file: a plain name, of a file that lies in the folder.

    A link may lead out of the folder only as Hugging Face's cache does it, from ``snapshots/REVISION`` to the blobs of
    the same repository, or to the blobs that all repositories share.

    Raises: CheckpointError for any other name, link, or a file that is not there.
    """
    if name != Path(name).name or name in ("", ".", "..") or any(sign in name for sign in "/\\:\0"):
        raise CheckpointError(
            "the index names a file outside its folder",
            where=where,
            expected="a plain file name",
            received=repr(name),
            remedy="do not trust it",
        )
    path = folder / name
    if not path.is_file():
        raise CheckpointError(
            f"{name} is missing", where=folder, remedy="the download is incomplete; fetch the checkpoint again"
        )
    target, home = path.resolve(), folder.resolve()
    if not any(target.is_relative_to(allowed) for allowed in (home, *_blob_folders(home))):
        raise CheckpointError(
            f"{name} is a link out of its folder, to {target}",
            where=where,
            remedy="put the file itself into the folder if you trust it",
        )
    return path


def _blob_folders(folder: Path) -> tuple[Path, ...]:
    """Where the links of a folder in Hugging Face's cache lead: CACHE/models--ORG--NAME/snapshots/REVISION → …/blobs."""
    for at in (folder, *folder.parents):
        if at.parent.name == "snapshots" and at.parent.parent.name.startswith("models--"):
            repository = at.parent.parent
            return repository / "blobs", repository.parent / "blobs"
    return ()
