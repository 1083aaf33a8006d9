"""``pellucid rm``: remove a model that was fetched, and say what that frees."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from pellucid.base.errors import ModelNotFoundError, RequestError
from pellucid.cli.runs import options


@dataclass(frozen=True)
class Removal:
    """What a name stands for on the disk. ``size``: bytes that are freed."""

    name: str
    where: Path
    size: int
    remove: Callable[[], None]


@options.command("rm")
@click.argument("names", metavar="MODELS", nargs=-1, required=True)
@options.option("-y", "--yes", is_flag=True, help="Do not ask.")
def command(names: tuple[str, ...], yes: bool) -> None:
    """Remove MODELS that were fetched.

    Pellucid's own are, and those in the hub's cache. Files that you named yourself and the models of other programs
    stay where they are.
    """
    from pellucid.cli.terminal.numbers import size

    found = list({removal.where: removal for removal in map(_removal, names)}.values())
    for removal in found:
        print(f"{removal.name}: {size(removal.size)} in {removal.where}", file=sys.stderr)
    whole = size(sum(removal.size for removal in found))
    if not yes:
        if not asks():
            raise RequestError("nobody can be asked here", expected="-y, to remove without asking")
        click.confirm(f"Remove {'it' if len(found) == 1 else 'them'} and free {whole}?", abort=True, err=True)
    for removal in found:
        removal.remove()
    print(f"freed {whole}", file=sys.stderr)


def asks() -> bool:
    """Whether there is somebody at a terminal."""
    return sys.stdin.isatty()


def _removal(name: str) -> Removal:
    """Raises: ModelNotFoundError where nothing of that name was fetched; RequestError for what is not ours."""
    from pellucid.checkpoint.sources import hub
    from pellucid.checkpoint.sources.catalogue import Shipped, find_entry
    from pellucid.checkpoint.sources.elsewhere import find_elsewhere
    from pellucid.checkpoint.sources.hub import HubName
    from pellucid.checkpoint.sources.wheel import cached_file

    entry = find_entry(name)
    source = entry.source if entry else HubName.parse(name)
    if isinstance(source, Shipped):
        raise RequestError("it is a part of Pellucid", where=name)
    if isinstance(source, HubName):
        if hub.is_in_cache(source.repo) and not Path(name).exists():
            repo, files = source.repo, hub.weights_in_cache(source) if source.pick else []
            if files:  # of several in the repository, this one
                num_bytes = sum(file.stat().st_size for file in files)
                return Removal(str(source), files[0], num_bytes, lambda: hub.remove_weights(files))
            if source.pick:
                raise ModelNotFoundError("that file was not fetched", where=repr(name), remedy="`pellucid list`")
            where = hub.folder_of(repo)
            return Removal(repo, where, hub.size_in_cache(repo), lambda: hub.remove_from_cache(repo))
    elif source is not None and entry is not None:
        folder = cached_file(source, entry.name).parent
        if folder.is_dir():
            files = [path for path in folder.rglob("*") if path.is_file()]
            num_bytes = sum(path.stat().st_size for path in files)
            return Removal(entry.name, folder, num_bytes, lambda: _remove_folder(folder))
    if found := find_elsewhere(name):
        raise RequestError(
            f"it is {found.program}'s, and {found.program} may need it", where=found.path, remedy=found.remove
        )
    if Path(name).exists():
        raise RequestError("a file or folder of yours is not removed here", where=name, remedy=f"rm {name}")
    raise ModelNotFoundError(
        "no such model was fetched", where=repr(name), remedy="`pellucid list` says which models are here"
    )


def _remove_folder(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)
