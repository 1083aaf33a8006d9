"""A checkpoint in several files: the index that says where each tensor lies, and which files it may name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from pellucid.base.array import Array
from pellucid.base.errors import CheckpointError, WeightsError
from pellucid.base.files import read_json
from pellucid.base.notice import notice
from pellucid.base.typed import shown
from pellucid.checkpoint.files.lazy import Lazy
from pellucid.families.translation.rules import some

MAX_NAME = 255  # bytes of a file's name, in every file system in use


def joined(parts: Iterable[Mapping[str, Array]], where: object) -> Lazy:
    """Several mappings seen as one. Raises: WeightsError for a name that two of them hold."""
    make: dict[str, Callable[[], Array]] = {}
    aliases: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for part in parts:
        for name in part:
            if name in make:
                raise WeightsError(
                    f"{name} is in two files of the checkpoint", where=where, remedy="remove the files of an older save"
                )
            make[name] = partial(part.__getitem__, name)
        aliases |= getattr(part, "aliases", {})
        metadata |= getattr(part, "metadata", {})
    return Lazy(make, aliases, metadata)


def open_sharded(index: Path, open_file: Callable[[Path], Mapping[str, Array]]) -> tuple[Lazy, list[Path]]:
    """The files that an index names, opened and joined; and their paths.

    What the index places is taken from there; what a file holds beside that is there as well, unless it is there
    already. What no file holds is not there: whether it is missed, the description says.

    Raises: CheckpointError for an index that is malformed or points outside its folder; WeightsError for a name that
    two files hold and the index does not place.
    """
    file_of = read_index(index)
    names = sorted(set(file_of.values()))
    paths = [inside(index.parent, file, index) for file in names]
    parts = dict(zip(names, (open_file(path) for path in paths), strict=True))
    placed = [Lazy({name: partial(part.__getitem__, name) for name in part if file_of.get(name) == file})
              for file, part in parts.items()]  # fmt: skip
    there = {name for part in placed for name in part}
    if absent := [name for name in file_of if name not in there]:
        notice(f"{index}: the files named there lack {some(absent)}; the index and they may be of different saves")
    beside = [
        Lazy(
            {name: partial(part.__getitem__, name) for name in part if name not in there},
            getattr(part, "aliases", {}),
            getattr(part, "metadata", {}),
        )
        for part in parts.values()
    ]
    return joined((*placed, *beside), index), paths


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

    A link that a user made may lead anywhere, to a file of the same kind (``.safetensors``) or to a blob of Hugging
    Face's cache. Within that cache, what was downloaded may lead only as the cache does it: from ``snapshots/REVISION``
    to the blobs of the same repository, or to the blobs that all repositories share.

    Raises: CheckpointError for any other name, link, or a file that is not there.
    """
    is_plain = name == Path(name).name and name not in ("", ".", "..") and not any(sign in name for sign in "/\\:\0")
    if not is_plain or len(name.encode()) > MAX_NAME:
        raise CheckpointError(
            "the index names a file outside its folder",
            where=where,
            expected="a plain file name",
            received=shown(name),
            remedy="do not trust it",
        )
    path = folder / name
    if not path.is_file():
        raise CheckpointError(
            f"{name} is missing", where=folder, remedy="the download is incomplete; fetch the checkpoint again"
        )
    target, home = path.resolve(), folder.resolve()
    if target.is_relative_to(home):
        return path
    blobs = _blob_folders(home)
    if blobs:
        may = any(target.is_relative_to(allowed) for allowed in blobs)
    else:
        may = target.suffix == path.suffix or _is_blob(target)
    if not may:
        raise CheckpointError(
            f"{name} is a link out of its folder, to {target}",
            where=where,
            remedy="put the file itself into the folder if you trust it",
        )
    return path


def _is_blob(path: Path) -> bool:
    """Whether a file lies in a hub cache: CACHE/models--ORG--NAME/blobs/SHA."""
    return path.parent.name == "blobs" and path.parent.parent.name.startswith("models--")


def _blob_folders(folder: Path) -> tuple[Path, ...]:
    """Where the links of a folder of the hub's cache lead: of CACHE/models--ORG--NAME/snapshots/REVISION, …/blobs."""
    for at in (folder, *folder.parents):
        if at.parent.name == "snapshots" and at.parent.parent.name.startswith("models--"):
            repository = at.parent.parent
            return repository / "blobs", repository.parent / "blobs"
    return ()
