"""Files: JSON with bounds, memory maps, and writes that are whole or absent."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import tempfile
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pellucid.base.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np

MAX_JSON_BYTES = 256 * 2**20  # the largest tokenizer.json in use is about 40 MB
MAX_JSON_DEPTH = 128  # containers within each other; what models and data sets are described by has about ten


def read_text(path: str | os.PathLike[str], max_bytes: int = MAX_JSON_BYTES) -> str:
    """The file as UTF-8 text. Raises: CheckpointError where it is too large or not UTF-8."""
    path = Path(path)
    size = path.stat().st_size
    if size > max_bytes:
        raise CheckpointError(
            "the file is too large to be read whole", where=path, expected=f"at most {max_bytes} bytes", received=size
        )
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"the file is not UTF-8 at byte {error.start}",
            where=path,
            remedy="convert it to UTF-8, or download it again",
        ) from None


def parse_json(text: str | bytes, where: object) -> Any:
    """Parsed JSON, at most ``MAX_JSON_DEPTH`` deep and of valid Unicode, so that whoever walks through it or writes it
    again need not think of either. Raises: CheckpointError that names the place.
    """
    try:
        value = json.loads(text)
        _check_depth(value)
        if re.search(rb"\\u[dD]" if isinstance(text, bytes) else r"\\u[dD]", text):  # pyright: ignore  # half a pair?
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        if isinstance(error, UnicodeEncodeError):
            reason = "half of a surrogate pair, which no Unicode text can hold"
        raise CheckpointError(
            f"not valid JSON: {reason}", where=where, remedy="the file may be truncated; download it again"
        ) from None


def _check_depth(value: Any) -> None:
    """Raises: RecursionError for more than ``MAX_JSON_DEPTH`` containers within each other."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise RecursionError


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A JSON object from a file. Raises: CheckpointError where it is not one."""
    value = parse_json(read_text(path), path)
    if not isinstance(value, dict):
        raise CheckpointError("expected a JSON object", where=path, received=type(value).__name__)
    return value


def map_file(path: str | os.PathLike[str]) -> memoryview:
    """The file's bytes, memory-mapped copy-on-write: writable views, the file itself never changes.

    Raises: CheckpointError for an empty file (it cannot be mapped, and no format here is empty).
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise CheckpointError("the file is empty", where=path, remedy="download the file again")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def read_npy(path: str | os.PathLike[str], dtype: str, columns: int | None = None) -> np.ndarray:
    """A ``.npy`` file, mapped: numbers of ``dtype`` in one row, or in rows of so many columns.

    Raises: CheckpointError for a file that is absent, damaged, or of something else.
    """
    import numpy as np

    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, OverflowError, tokenize.TokenError) as error:
        reason = str(error).split("\n", 1)[0][:80]  # the header is Python's text, and damaged fails in many ways
        raise CheckpointError(f"not a .npy file: {reason}", where=path) from None
    if (
        values.dtype != np.dtype(dtype)
        or values.shape[1:] != (() if columns is None else (columns,))
        or not values.ndim
    ):
        raise CheckpointError(
            "the array is not what it must be",
            where=path,
            expected=f"{dtype}, in {'one row' if columns is None else f'rows of {columns}'}",
            received=f"{values.dtype} {list(values.shape)}",
        )
    return values


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; the file need not fit in memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(path: str | os.PathLike[str]) -> str:
    """``file_sha256``, computed once in a process for as long as the file's size and time stay as they are."""
    state = os.stat(path)
    return _content_hash(os.fspath(path), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _content_hash(path: str, size: int, mtime_ns: int) -> str:
    return file_sha256(path)


def sampled_sha256(path: str | os.PathLike[str], blocks: int = 64, size: int = 4096) -> str:
    """The SHA-256 of a file's size, its first and last 64 kB, and blocks evenly between: quick for files of any size.

    It sees every cut and every new header, and a change in the middle only where a block lies.
    """
    with open(path, "rb") as file:
        total = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(str(total).encode())
        digest.update(file.read(2**16))
        for i in range(1, blocks):
            file.seek(total * i // blocks)
            digest.update(file.read(size))
        file.seek(max(total - 2**16, 0))
        digest.update(file.read(2**16))
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """A new name in a folder is on the disk after this; where folders cannot be opened, nothing is done."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems cannot
    finally:
        os.close(handle)


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; on success it takes the name, on any error it is removed.

    What is no file (``/dev/stdout``, a pipe) is written to as it is: a file must not take its place.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    device = path.parent in (Path("/dev"), Path("/dev/fd"))  # /dev/stdout may lead to a file
    if path.exists() and not path.is_dir() and (device or not path.is_file()):
        with open(path, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        return
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp makes it 0600; a saved model is no secret
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk names no file by itself
            error.filename = str(path)
        raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON as transformers does: indented, readable CJK, a newline at the end; atomically."""
    with atomic_write(path, "w") as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
