"""Saving several files so that a failure leaves the folder as it was: all are written first, then all are named."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from pellucid.base.errors import CheckpointError


class Staging:
    """A save in progress. ``with Staging(folder) as staging:``; what was not committed is removed on the way out.

    Raises: CheckpointError, on the way out, for a full disk and any other failure to write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._staged: list[BinaryIO] = []

    def __enter__(self) -> Staging:
        return self

    def open(self) -> BinaryIO:
        """A new file beside the others, under a temporary name; it stays open until the commit, or the end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = open(self.folder / f".pellucid-{secrets.token_hex(6)}.tmp", "xb")  # noqa: SIM115
        self._staged.append(file)
        return file

    def json(self, value: Any) -> BinaryIO:
        """A staged file of JSON, written as transformers writes it."""
        file = self.open()
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
        return file

    @contextlib.contextmanager
    def named(self, steps: Iterable[tuple[BinaryIO, str] | str]) -> Iterator[Path]:
        """A folder in which the staged files have their names already, to look at before the commit; gone after it."""
        folder = self.folder / f".pellucid-{secrets.token_hex(6)}"
        folder.mkdir()
        try:
            for step in steps:
                if not isinstance(step, str):
                    step[0].flush()
                    _link(Path(step[0].name), folder / step[1])
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def commit(self, steps: Iterable[tuple[BinaryIO, str] | str]) -> None:
        """Give the files their names, in order; a bare name among the steps is a file to remove, if there is one."""
        for file in self._staged:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        for step in steps:
            if isinstance(step, str):
                (self.folder / step).unlink(missing_ok=True)
            else:
                os.replace(step[0].name, self.folder / step[1])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._staged:
            with contextlib.suppress(OSError):  # a full disk fails again when buffers are flushed
                file.close()
            Path(file.name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise CheckpointError(
                f"could not save: {reason}", where=self.folder, remedy="free space, or save elsewhere"
            ) from error


def _link(file: Path, name: Path) -> None:
    """One file under another name; where the disk has no such names, a pointer to it."""
    try:
        name.hardlink_to(file)
    except OSError:
        name.symlink_to(file.resolve())
