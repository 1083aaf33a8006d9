"""One process at a time trains in a folder: two would write over each other's steps.

The lock is the system's own (``flock``) on ``RUN/.lock``: it is gone when its process is, however that ended, so none
is ever stale. The file says who holds it, for whoever is turned away.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pellucid.base.errors import PellucidError

LOCK = ".lock"


class BusyError(PellucidError, BlockingIOError):
    """Another process trains in the folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. Raises: BusyError naming the process that has it."""
    try:
        import fcntl
    except ImportError:  # Windows: there is no such lock, and no second one is guessed
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                "another process trains here",
                where=folder,
                received=_holder(os.read(handle, 1000)),
                remedy="wait until it is done, or name another --out",
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        os.close(handle)  # and with it the lock


def _holder(text: bytes) -> str | None:
    try:
        holder = json.loads(text)
        return f"process {holder['process']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):  # it is just about to say who it is
        return None
