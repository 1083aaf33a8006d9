"""Texts on disk → documents, streamed: plain text, JSON lines, JSON lists, CSV, Parquet; files, folders, globs, and
data sets of the hub.
"""

from __future__ import annotations

import codecs
import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pellucid.train.data.errors import DataError
from pellucid.train.data.hub_datasets import PREFIX, fetch_dataset, stream_dataset
from pellucid.train.data.record_files import check_is_data, holds_records, not_utf8, records

__all__ = ["DataError", "documents", "find_sources", "records", "streamed"]

SUFFIXES = (".txt", ".md", ".jsonl", ".json", ".ndjson", ".parquet")
PIECE = 2**20  # bytes of a plain text that are tokenized at a time


def find_sources(names: Sequence[str], suffixes: Sequence[str] = SUFFIXES, *, but_in: Path | None = None) -> list[Path]:
    """The files behind paths, folders (all their files with ``suffixes``) and globs, in sorted order within each; none
    twice. What lies in the folder ``but_in`` is left out: a run's own files are no text to learn from.

    Raises: DataError for a name behind which there is nothing.
    """
    own = None if but_in is None else but_in.expanduser().resolve()
    sources: dict[Path, None] = {}
    for name in names:
        path = Path(name).expanduser()
        if name.startswith(PREFIX):
            files = [fetch_dataset(name)]
        elif path.is_file():
            files = [path]
        elif path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in suffixes)
        else:
            files = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file())
        files = [path for path in (file.resolve() for file in files) if own is None or own not in path.parents]
        if not files:
            raise DataError(
                "there is no text here",
                where=name,
                expected="a file, a folder with " + ", ".join(suffixes) + " files, or a glob",
            )
        sources |= dict.fromkeys(files)
    return list(sources)


def documents(path: Path, fields: Sequence[str] = ("text",), separator: str | None = None) -> Iterator[Iterator[str]]:
    """Each document of a file, as pieces of text in order; consume one before asking for the next.

    A plain text is one document, or several between lines that hold ``separator`` alone. In JSON and tables a document
    is a record's ``fields``, joined by line breaks.
    """
    if holds_records(path):
        for value, where in records(path):
            yield iter([_text_of(value, fields, where)])
    elif separator is None:
        yield _pieces(path)
    else:
        lines: list[str] = []
        for line in (line for piece in _pieces(path) for line in piece.splitlines(keepends=True)):
            if line.strip() == separator:
                yield iter(["".join(lines)])
                lines = []
            else:
                lines.append(line)
        yield iter(["".join(lines)])


def streamed(name: str, fields: Sequence[str] = ("text",), separator: str | None = None) -> Iterator[Iterator[str]]:
    """``documents`` of a file, or of a data set of the hub as it arrives."""
    if not name.startswith(PREFIX):
        yield from documents(Path(name), fields, separator)
        return
    for value, where in stream_dataset(name):
        yield iter([_text_of(value, fields, where)])


def _text_of(value: Any, fields: Sequence[str], where: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or not all(isinstance(value.get(field), str) for field in fields):
        keys = ", ".join(value) if isinstance(value, dict) else type(value).__name__
        raise DataError(
            "the entry lacks a text", where=where, expected=" and ".join(map(json.dumps, fields)), received=keys[:200]
        )
    return "\n".join(value[field] for field in fields)


def _pieces(path: Path) -> Iterator[str]:
    """A plain text in pieces of about PIECE bytes that end with a line where there are lines, so no word is cut."""
    check_is_data(path)
    decoder, rest, read = codecs.getincrementaldecoder("utf-8")(), "", 0
    with open(path, "rb") as file:
        while True:
            data = file.read(PIECE)
            try:
                rest += decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise not_utf8(path, data, read + error.start) from None
            read += len(data)
            if not data:
                break
            cut = rest.rfind("\n") + 1
            if cut or len(rest) > 16 * PIECE:
                yield rest[: cut or len(rest)]
                rest = rest[cut:] if cut else ""
    if rest:
        yield rest
