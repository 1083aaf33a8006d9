"""The records of a file, whatever holds them: JSON lines, a JSON list, CSV, Parquet.

CSV, TSV and Parquet go by their suffix; JSON by how the file begins, since ``.json`` and ``.jsonl`` are both written
with either in them. A value comes with its place for messages: ``data.csv, row 3``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pellucid.base.errors import CheckpointError, UnsupportedError
from pellucid.base.files import parse_json
from pellucid.train.data.errors import DataError

JSON, TABLES = (".jsonl", ".json", ".ndjson"), (".csv", ".tsv", ".parquet")
LFS = b"version https://git-lfs.github.com/spec/"
DELIMITERS = ",;\t|"
MAX_CELL = 2**27  # characters of a cell in CSV: Python's own limit, 128 kB, is less than a long conversation has
_UTF8_BOM, _UTF16_BOMS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


def holds_records(path: Path) -> bool:
    """Whether a file holds records rather than plain text: by its suffix."""
    return path.suffix.lower() in (*JSON, *TABLES)


def records(path: Path) -> Iterator[tuple[Any, str]]:
    """Each record of a file, and its place.

    Raises: DataError naming the line that is no JSON, or the encoding, or what the file is instead.
    """
    check_is_data(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet(path)
    elif suffix in (".csv", ".tsv"):
        yield from _separated(path, "\t" if suffix == ".tsv" else None)
    elif _begins_with(path, b"["):
        yield from _listed(path)
    else:
        yield from _lines(path)


def check_is_data(path: Path) -> None:
    """Raises: DataError for a file that only stands for the data, or is empty of it."""
    with open(path, "rb") as file:
        first = file.read(200)
    if first.startswith(LFS):
        size = next((line.split()[-1].decode() for line in first.splitlines() if line.startswith(b"size ")), "?")
        raise DataError(
            "this is a git-lfs pointer, not the data that it points to",
            where=path,
            expected=f"{size} bytes",
            received=f"{path.stat().st_size} bytes of pointer",
            remedy="git lfs install && git lfs pull, in the folder that git cloned",
        )


def not_utf8(path: Path, data: bytes, at: int) -> DataError:
    """What to say of a file with bytes that are not UTF-8: which encoding it is in, as far as that can be told."""
    name = encoding_of(data)
    return DataError(
        f"the text is not UTF-8 near byte {at}" + (f", but seems to be {name[0]}" if name else ""),
        where=path,
        remedy=f"iconv -f {name[1] if name else 'ENCODING'} -t UTF-8 {path.name} > utf8-{path.name}",
    )


def encoding_of(data: bytes) -> tuple[str, str] | None:
    """(name, name for iconv) of the encoding that bytes, which are not UTF-8, are likely in."""
    if data[:2] in _UTF16_BOMS:
        return "UTF-16", "UTF-16"
    for drop in range(4):  # the last character may be cut
        try:
            text = data[: len(data) - drop].decode("gb18030")
        except UnicodeDecodeError:
            continue
        foreign = [character for character in text if character > "\x7f"]
        common = sum("\u4e00" <= character <= "\u9fff" or "\u3000" <= character <= "\u303f" for character in foreign)
        return ("GBK (Chinese)", "GB18030") if foreign and common >= 0.7 * len(foreign) else None
    return None


def _begins_with(path: Path, first: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(256).removeprefix(_UTF8_BOM).lstrip().startswith(first)


# --- JSON ------------------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[Any, str]]:
    """JSON lines; or one object that is written over several lines."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(_UTF8_BOM) if number == 1 else line
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                value = _parsed(line, path, where, "one JSON object a line")
            except DataError:
                whole = _whole_object(path) if line.strip().startswith(b"{") and number < 3 else None
                if whole is None:
                    raise
                yield from whole
                return
            yield value, where


def _whole_object(path: Path) -> list[tuple[Any, str]] | None:
    """The records of a file that is one JSON object: those of its only list of objects, else the object itself. None
    where it is no such file.
    """
    try:
        value = parse_json(path.read_bytes().removeprefix(_UTF8_BOM), path)
    except CheckpointError:
        return None
    lists = {key: part for key, part in value.items() if isinstance(part, list) and part and isinstance(part[0], dict)}
    # A record's own list is its messages, which are objects, too: but then it is named so, or has a role in it.
    if len(lists) == 1 and (key := next(iter(lists))) in ("data", "train", "examples", "records", "rows", "instances"):
        return [(part, f"{path}, {key}, entry {number}") for number, part in enumerate(lists[key], 1)]
    return [(value, f"{path}, the object")]


def _listed(path: Path) -> Iterator[tuple[Any, str]]:
    """A JSON list; or lines each of which is one."""
    try:
        values = _parsed(path.read_bytes().removeprefix(_UTF8_BOM), path, path, "a JSON list of objects, or JSON lines")
    except DataError as error:
        if "Extra data" not in error.what:
            raise
        yield from _lines(path)
        return
    for number, value in enumerate(values, 1):
        yield value, f"{path}, entry {number}"


def _parsed(data: bytes, path: Path, where: object, expected: str) -> Any:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(path, data, error.start) from None
    try:
        return parse_json(text, where)
    except CheckpointError as error:
        raise DataError(error.what, where=where, expected=expected) from None


# --- tables ----------------------------------------------------------------------------------------------------------


def _separated(path: Path, delimiter: str | None) -> Iterator[tuple[dict[str, str], str]]:
    """CSV with a line of names: as spreadsheets write it, a byte-order mark, semicolons and all."""
    csv.field_size_limit(MAX_CELL)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            rows = csv.reader(file, delimiter=delimiter or _delimiter(header), strict=True)
            names = [name.strip() for name in next(rows, [])]
            if len({*names}) < len(names) or not any(names):
                raise DataError(
                    "the first line must name the columns, each otherwise",
                    where=path,
                    expected="prompt,response for one",
                    received=repr(header[:80]),
                )
            for number, cells in enumerate(rows, 1):
                if not any(cells):
                    continue
                where = f"{path}, row {number}"
                if len(cells) != len(names):
                    raise DataError(
                        "the row has another number of cells than the first line has names",
                        where=f"{where} (line {rows.line_num})",
                        expected=len(names),
                        received=len(cells),
                        remedy='a text that holds the separator or a line break stands in quotes: "a, b"',
                    )
                yield dict(zip(names, cells, strict=True)), where
    except csv.Error as error:
        raise DataError(f"not valid CSV: {error}", where=f"{path}, near line {rows.line_num}") from None  # pyright: ignore
    except UnicodeDecodeError as error:
        raise not_utf8(path, error.object, error.start) from None


def _delimiter(header: str) -> str:
    """The separator that the line of names has most of: Excel writes semicolons where commas are decimal."""
    return max(DELIMITERS, key=header.count)


def _parquet(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Raises: UnsupportedError without pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UnsupportedError(
            "reading Parquet needs pyarrow, which is not installed",
            where=path,
            remedy="pip install pyarrow (it comes with pip install 'pellucid[datasets]', too)",
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(1024):
                for record in batch.to_pylist():
                    number += 1
                    yield record, f"{path}, row {number}"
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"this Parquet file cannot be read: {error}", where=path) from None
