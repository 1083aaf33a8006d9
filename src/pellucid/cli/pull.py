"""``pellucid pull``: fetch a model once, to use it without a network afterwards."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from pellucid.cli.runs import options


@options.command("pull")
@click.argument("name", metavar="MODEL")
@options.option("--verify", is_flag=True, help="Hash what is cached, and fetch it again if it is damaged.")
@options.offline
@options.quiet
def command(name: str, verify: bool, offline: bool, quiet: bool) -> None:
    """Fetch MODEL, once, and print where it lies.

    MODEL is a name from `pellucid list` (llama3.2:1b), org/name[@revision] on the hub with a GGUF file of it
    (org/name:Q4_K_M), or a link (hf.co/org/name).
    """
    from pellucid.checkpoint.sources.catalogue import find_entry

    catalogued = find_entry(name) is not None
    options.refuse_idle(
        verify=(catalogued, "hashes the models of `pellucid list`; the hub's own client checks its cache")
    )
    path = pull(name, verify=verify, offline=offline, quiet=quiet)
    if not quiet:
        print(path)


def pull(name: str, *, verify: bool = False, offline: bool = False, quiet: bool = False) -> Path:
    """The model's path, fetched if need be; what is going on is said on stderr. Raises: ModelNotFoundError,
    CheckpointError.
    """
    from pellucid.checkpoint.sources.catalogue import fetch_entry, find_entry
    from pellucid.checkpoint.sources.resolve import resolve
    from pellucid.cli.terminal.numbers import duration, size

    entry = find_entry(name)
    cached = entry is not None and entry.is_cached()
    if entry and not quiet:
        new = f"{entry.about} ({entry.licence}), {size(entry.size)}"
        print(f"{entry.name}: in the cache already" if cached else new, file=sys.stderr)
    if entry and entry.terms and not cached:  # however quiet
        print(f"by using it you agree to {entry.licence}: {entry.terms}", file=sys.stderr)
    started = time.monotonic()
    progress = False if quiet else None
    path = (
        fetch_entry(entry, offline=offline, progress=progress, verify=verify)
        if entry
        else resolve(name, offline=offline, progress=progress)
    )
    if not (quiet or cached):
        print(f"fetched in {duration(time.monotonic() - started)}", file=sys.stderr)
    return path
