"""``pellucid list``: the models that can be named, and those that are here already."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from pellucid.cli.runs import options


@dataclass(frozen=True)
class Row:
    """A model that has a name: from the catalogue, from the hub's cache, or of another program on this disk."""

    name: str
    aliases: tuple[str, ...]
    cached: bool
    size: int | None
    about: str
    licence: str | None
    source: str
    languages: str | None = None
    terms: str | None = None


@options.command("list")
@options.as_json
def command(as_json: bool) -> None:
    """List the models that can be named, and which are here."""
    rows = list(_rows())
    if as_json:
        print(json.dumps([vars(row) for row in rows], indent=2, ensure_ascii=False))
    else:
        _show(rows)


def _rows() -> Iterator[Row]:
    from pellucid.checkpoint.sources.catalogue import CATALOGUE, Shipped, Wheels
    from pellucid.checkpoint.sources.elsewhere import found_elsewhere
    from pellucid.checkpoint.sources.hub import HubName, cached, ggufs_in_cache, size_in_cache

    begun = _begun_in_hub_cache()
    for entry in CATALOGUE:
        if isinstance(entry.source, HubName):
            source, here = str(entry.source), entry.source.repo in begun and entry.is_cached()
            begun.discard(entry.source.repo)
        elif isinstance(entry.source, Shipped):
            source, here = "pellucid", True
        elif isinstance(entry.source, Wheels):
            source, here = ", ".join(part.requirement for part in entry.source.parts), entry.is_cached()
        else:
            source, here = entry.source.requirement, entry.is_cached()
        yield Row(
            entry.name,
            entry.aliases,
            here,
            entry.size,
            entry.about,
            entry.licence,
            source,
            entry.languages,
            entry.terms,
        )
    for repo in sorted(begun):
        if cached(HubName(repo)) is not None:
            yield Row(repo, (), True, size_in_cache(repo), "in the hub's cache", None, repo)
        else:
            for file, num_bytes in ggufs_in_cache(repo):
                yield Row(f"{repo}:{file}", (), True, num_bytes, "in the hub's cache", None, repo)
    for found in found_elsewhere():
        yield Row(found.name, (), True, found.size, f"{found.program}'s", None, str(found.path))


def _begun_in_hub_cache() -> set[str]:
    """``org/name`` of every model that the hub's cache has begun."""
    from pathlib import Path

    from huggingface_hub.constants import HF_HUB_CACHE

    folders = (path.name.split("--") for path in Path(HF_HUB_CACHE).glob("models--*--*"))
    return {f"{parts[1]}/{'--'.join(parts[2:])}" for parts in folders}


def _show(rows: list[Row]) -> None:
    from rich.table import Table
    from rich.text import Text

    from pellucid.cli.terminal.console import results
    from pellucid.cli.terminal.numbers import size

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("here", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("what")
    for row in sorted(rows, key=lambda row: not row.cached):
        more = " · ".join(filter(None, (row.languages, row.licence)))
        what = Text.assemble(row.about, (f" · {more}", "dim")) if more else Text(row.about)
        name = next((alias for alias in row.aliases if ":" in alias), row.name)  # as people know it: gemma3:270m
        table.add_row(name, "yes" if row.cached else "", "" if row.size is None else size(row.size), what)
    results().print(table)
