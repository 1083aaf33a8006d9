"""Packed parameters on the disk: under a name made of all that is in them, looked at before they are used, bounded."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from pellucid.base.array import Array
from pellucid.base.errors import PellucidError
from pellucid.base.files import atomic_write, read_json, sampled_sha256, write_json
from pellucid.base.version import __version__
from pellucid.config import ModelConfig
from pellucid.native import pack
from pellucid.native.cache import folder, sweep
from pellucid.native.claims import NATIVE
from pellucid.native.layout import plan

KEPT_BYTES = 64 * 2**30  # of all models together: those that were not used for longest go first
KEPT_SECONDS = 60 * 24 * 3600  # of one that nobody asks for


class Packed:
    """A parameters file, to be opened within ``with``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None: ...


class _Fleeting(Packed):
    """One that nobody will ask for again: once it is mapped its name goes, and with the process its bytes."""

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)


def parameters(
    config: ModelConfig, weights: Mapping[str, Array], quantize: str | None, source_id: str | None
) -> tuple[dict[str, str], Packed]:
    """Each matrix's format, and the packed file: kept from before, or made now."""
    where = folder("parameters")
    if source_id is None:
        formats = pack.formats_of(config, weights, quantize)
        handle, name = tempfile.mkstemp(prefix=".parameters.", dir=where)
        try:
            with os.fdopen(handle, "wb") as file:
                pack.write_parameters(file, config, plan(config, formats), weights)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return formats, _Fleeting(Path(name))
    key = key_of(config, quantize, source_id)
    path, index = where / key, where / f"{key}.json"
    formats = _packed_before(config, path, index)
    if formats is None:
        formats = pack.formats_of(config, weights, quantize)
        with atomic_write(path) as file:
            pack.write_parameters(file, config, plan(config, formats), weights)
        write_json(index, {"formats": formats, "sample": sampled_sha256(path)})
        path.chmod(0o600)
        index.chmod(0o600)
        sweep(where, kept_bytes=KEPT_BYTES, kept_seconds=KEPT_SECONDS, but={path, index})
    return formats, Packed(path)


def key_of(config: ModelConfig, quantize: str | None, source_id: str) -> str:
    """Of the source, and of every field of the description that numbers depend on: rotary frequencies and γ's offset
    lie in the file, too.
    """
    facts = (__version__, source_id, quantize, list(NATIVE.read(config)))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _packed_before(config: ModelConfig, path: Path, index: Path) -> dict[str, str] | None:
    """The formats of a packed file that is there, whole, and laid out as this version does; else None.

    Its header and size are those of the layout, its samples those of when it was written. From then on it counts as
    used now.
    """
    try:
        entry = read_json(index)
        formats, sample = entry["formats"], entry["sample"]
        layout = plan(config, formats)
        with open(path, "rb") as file:
            whole = file.read(len(layout.key)) == layout.key and path.stat().st_size == layout.size
        if not whole or sampled_sha256(path) != sample:
            return None
        now = time.time()
        for used in (path, index):
            os.utime(used, (now, now))
    except (OSError, KeyError, TypeError, ValueError, AttributeError, PellucidError):  # whatever a damaged index says
        return None
    return formats
