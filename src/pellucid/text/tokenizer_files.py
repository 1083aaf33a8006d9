"""Reading a tokenizer's files, every failure a TokenizerError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pellucid.base import files
from pellucid.base.errors import CheckpointError, TokenizerError


@contextmanager
def _as_tokenizer_error(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise TokenizerError(
            error.what, where=path, expected=error.expected, received=error.received, remedy=error.remedy
        ) from None
    except OSError as error:
        raise TokenizerError(f"cannot be read: {error.strerror}", where=path) from None


def read_text(path: Path) -> str:
    """The file as UTF-8 text."""
    with _as_tokenizer_error(path):
        return files.read_text(path)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file."""
    with _as_tokenizer_error(path):
        return files.read_json(path)


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """The file's bytes; at most ``max_bytes`` are believed to be a tokenizer's."""
    with _as_tokenizer_error(path):
        size = path.stat().st_size
        if size > max_bytes:
            raise CheckpointError(
                "the file is too large for a tokenizer", expected=f"at most {max_bytes} bytes", received=size
            )
        return path.read_bytes()


def read_start(path: Path, num_bytes: int = 4096) -> bytes:
    """The file's first bytes, of which its kind can be told."""
    with _as_tokenizer_error(path), open(path, "rb") as file:
        return file.read(num_bytes)
