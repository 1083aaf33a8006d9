"""Texts on disk → documents, streamed: plain text, JSON lines, JSON lists; files, folders, globs."""

from __future__ import annotations

import codecs
import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pellucid.base.errors import PellucidError
from pellucid.base.files import parse_json, read_text

SUFFIXES = (".txt", ".md", ".jsonl", ".json")
PIECE = 2**20  # bytes of a plain text that are tokenized at a time


class DataError(PellucidError, ValueError):
    """A text that is absent, empty, not UTF-8, or lacks the field that was asked for."""


def find_sources(names: Sequence[str]) -> list[Path]:
    """The files behind paths, folders (all their .txt, .md, .jsonl and .json files) and globs, in sorted order within each; none twice.

    Raises: DataError for a name behind which there is nothing.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name).expanduser()
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in SUFFIXES)
        else:
            files = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file())
        if not files:
            raise DataError("there is no text here", where=name, expected="a file, a folder with " + ", ".join(SUFFIXES) + " files, or a glob")
        found |= dict.fromkeys(file.resolve() for file in files)
    return list(found)


def documents(path: Path, fields: Sequence[str] = ("text",), separator: str | None = None) -> Iterator[Iterator[str]]:
    """Each document of a file, as pieces of text in order; consume one before asking for the next.

    A plain text is one document, or several between lines that hold ``separator`` alone. In JSON a document is an object's
    ``fields``, joined by line breaks.
    """
    if path.suffix == ".jsonl":
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield iter([_text_of(parse_json(line, f"{path}, line {number}"), fields, f"{path}, line {number}")])
    elif path.suffix == ".json":
        values = parse_json(read_text(path), path)
        if not isinstance(values, list):
            raise DataError("expected a JSON list of objects", where=path, received=type(values).__name__)
        for number, value in enumerate(values, 1):
            yield iter([_text_of(value, fields, f"{path}, entry {number}")])
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


def _text_of(value: Any, fields: Sequence[str], where: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or not all(isinstance(value.get(field), str) for field in fields):
        keys = ", ".join(value) if isinstance(value, dict) else type(value).__name__
        raise DataError("the entry lacks a text", where=where, expected=" and ".join(map(json.dumps, fields)), received=keys[:200])
    return "\n".join(value[field] for field in fields)


def _pieces(path: Path) -> Iterator[str]:
    """A plain text in pieces of about PIECE bytes that end with a line where there are lines, so that no word is cut."""
    decoder, rest, read = codecs.getincrementaldecoder("utf-8")(), "", 0
    with open(path, "rb") as file:
        while True:
            data = file.read(PIECE)
            try:
                rest += decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise DataError(f"the text is not UTF-8 near byte {read + error.start}", where=path, remedy="convert it, e.g. with iconv") from None
            read += len(data)
            if not data:
                break
            cut = rest.rfind("\n") + 1
            if cut or len(rest) > 16 * PIECE:
                yield rest[: cut or len(rest)]
                rest = rest[cut:] if cut else ""
    if rest:
        yield rest
