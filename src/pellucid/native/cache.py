"""Pellucid's private cache folder: compiled programs and packed parameters, readable by their owner alone."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path

from pellucid.base.errors import PellucidError


class NativeError(PellucidError, RuntimeError):
    """The native executor cannot be made here; torch can run the model instead."""


def folder(name: str) -> Path:
    """``$XDG_CACHE_HOME/pellucid/native/<name>`` (or ``~/.cache/…``), mode 0700.

    Code is loaded from here, so a folder of somebody else's, or one that others may write to, is refused.
    Raises: NativeError.
    """
    if not hasattr(os, "getuid"):
        raise NativeError(
            "the native executor runs on Linux and macOS: its program maps files and is loaded as they do it",
            received=sys.platform,
            remedy="run with --executor torch",
        )
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = base / "pellucid" / "native"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for part in (path, path / name):
            part.mkdir(exist_ok=True, mode=0o700)
            facts = part.lstat()
            if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
                raise NativeError(
                    "the cache folder is not private",
                    where=part,
                    expected="a folder of your own, mode 0700",
                    remedy=f"chmod 700 {part}",
                )
    except OSError as error:
        raise NativeError(
            f"no cache folder can be made: {error.strerror}",
            where=path,
            remedy="set XDG_CACHE_HOME to a folder of yours",
        ) from None
    return path / name


SHARE = 4  # a folder takes no more than one part in so many of what it has and what is free on its disk
LEFTOVER_SECONDS = 3600  # no compile and no write leaves a file untouched for as long


def sweep(where: Path, *, kept_bytes: int, kept_seconds: float, but: set[Path] | None = None) -> None:
    """Remove what killed processes left, what nobody used for so long, and then what was used longest ago, until the
    folder's files take at most so many bytes, and no more than their share of the disk. A file that another process
    has open stays with it until it ends.
    """
    now, kept = time.time(), []
    for path in where.iterdir():
        try:
            facts = path.lstat()
            if path.name.startswith("."):
                if now - facts.st_mtime > LEFTOVER_SECONDS:
                    _remove(path)
            elif now - facts.st_mtime > kept_seconds and path not in (but or ()):
                _remove(path)
            else:
                kept.append((facts.st_mtime, facts.st_size, path))
        except OSError:
            continue  # gone meanwhile
    total = sum(size for _, size, _ in kept)
    with suppress(OSError):
        kept_bytes = min(kept_bytes, (shutil.disk_usage(where).free + total) // SHARE)
    for _, size, path in sorted(kept):
        if total <= kept_bytes:
            break
        if path not in (but or ()):
            total -= size
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
