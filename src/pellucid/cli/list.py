"""``pellucid list``: the models that can be named, and those that are here already."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from pellucid.cli.runs import options


@dataclass(frozen=True)
class Row:
    """A model that has a name: from the catalogue, or from the hub's cache."""

    name: str
    aliases: tuple[str, ...]
    cached: bool
    size: int | None
    about: str
    licence: str | None
    source: str


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
    from pellucid.checkpoint.sources.catalogue import CATALOGUE, Shipped
    from pellucid.checkpoint.sources.hub import HubName, cached

    begun = _begun_in_hub_cache()
    for entry in CATALOGUE:
        if isinstance(entry.source, HubName):
            source, here = str(entry.source), entry.source.repo in begun and entry.is_cached()
            begun.discard(entry.source.repo)
        elif isinstance(entry.source, Shipped):
            source, here = "pellucid", True
        else:
            source, here = entry.source.requirement, entry.is_cached()
        yield Row(entry.name, entry.aliases, here, entry.size, entry.about, entry.licence, source)
    for repo in sorted(begun):
        if cached(HubName(repo)) is not None:
            yield Row(repo, (), True, None, "in the hub's cache", None, repo)


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
    for row in rows:
        what = Text(row.about) if row.licence is None else Text.assemble(row.about, (f" · {row.licence}", "dim"))
        table.add_row(row.name, "yes" if row.cached else "", "" if row.size is None else size(row.size), what)
    results().print(table)
